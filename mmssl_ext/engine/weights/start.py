"""Weights that a run starts from by ``load_from``: verified, or refused.

mmengine loads the tensors that happen to match and says "Load checkpoint from"; where
none does, the run starts from random weights. Here a pretraining must find every tensor
of its model, a detector, segmentor or classifier every tensor of its backbone, and a
test every tensor of the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmssl_ext.engine.checkpoint.foreign_state import suit
from mmssl_ext.errors import CheckpointFileError

from .files import Weights, weights_of
from .match import Match, below, best_prefix
from .record import find_record, input_text, structure_text
from .report import compare


def check_start(
    model: nn.Module,
    checkpoint: dict,
    path: str,
    training: bool = True,
    exact: bool = False,
) -> list[str]:
    """Verify a checkpoint before mmengine loads what it can of it.

    Args:
        model: That is to start from it.
        checkpoint: As read. The state of a queue or bank that has other sizes than the
            model's is taken out of it: that starts anew.
        path: Of its file, for the messages.
        training: Whether the model will be trained; a test needs every tensor.
        exact: The checkpoint must be of the same model, queues and banks included.

    Returns:
        Sentences for the log on what differs and may.

    Raises:
        CheckpointFileError: It does not fit, or holds weights that no working network
            has. The message says what it holds and how to start from that.
    """
    suit(model, _container(checkpoint))
    notes = {} if exact else _forget_memory(model, checkpoint)
    whole = exact or getattr(model, "starts_whole", False)
    anew = tuple(f"{name}." for name in notes) if whole else ()
    wanted = {n: v for n, v in model.state_dict().items() if not n.startswith(anew)}
    found = required = Match(wanted, as_loaded(checkpoint, path), whole=whole)
    of_backbone = training and not whole and hasattr(model, "backbone")
    if of_backbone:
        required = found.part("backbone.")
    if not (required.report.complete if whole else required.report.filled):
        if exact:
            required.refuse(
                f"Checkpoint {path} does not fit the model of the config; give the "
                "config that it was trained with"
            )
        needed = "the backbone" if of_backbone else "the model"
        required.refuse(
            f"load_from={path} does not fit",
            f"Every tensor of {needed} must be there.",
            advice(model, checkpoint, path).strip(),
        )
    found.sound()
    texts = list(notes.values())
    if not whole and (found.report.unused or not found.report.complete):
        texts.append(found.partial(f"Weights from {path}"))
    record, backbone = found.weights.record, getattr(model, "backbone", None)
    structure = structure_text(record, backbone, path)
    if structure and not training:
        raise CheckpointFileError(structure)
    images = input_text(record, getattr(model, "data_preprocessor", None), path)
    return [*texts, *filter(None, (structure, images))]


def can_start(model: nn.Module, checkpoint: dict, path: str) -> bool:
    """Whether :func:`check_start` takes a checkpoint, which stays as it is."""
    state = as_loaded(checkpoint, path).tensors
    try:
        check_start(model, {**checkpoint, "state_dict": state}, path)
    except CheckpointFileError:
        return False
    return True


def advice(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> str:
    """How to start from the backbone in a file that is of another model, if any."""
    backbone: Any = getattr(model, "backbone", None)
    if backbone is None:
        return ""
    wanted = backbone.state_dict()
    try:
        weights = weights_of(checkpoint, path)
    except CheckpointFileError as error:
        return f" {error}"
    prefix = best_prefix(wanted, weights.tensors, "query")
    if prefix is None:
        return " It holds no backbone of this kind."
    found = Match(wanted, weights, prefix)
    if found.report.complete:
        return (
            f" It holds a backbone that fits, under '{prefix}': to start from that, "
            "leave load_from out and set "
            "model.backbone.init_cfg.type=mmssl_ext.PretrainedBackbone "
            f"model.backbone.init_cfg.checkpoint={path} (in configs/transfer: "
            f"checkpoint={path})."
        )
    causes = " ".join(found.causes())
    return f" Nor does its backbone, under '{prefix}', fit: {causes}"


def as_loaded(checkpoint: dict, path: str) -> Weights:
    """The tensors as mmengine's Runner will load them."""
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in _container(checkpoint).items()
        if isinstance(value, Tensor)
    }
    return Weights(tensors, find_record(checkpoint.get("meta")), path)


def _container(checkpoint: dict) -> dict[str, Any]:
    state = checkpoint.get("state_dict", checkpoint)
    return state if isinstance(state, dict) else {}


def _forget_memory(model: nn.Module, checkpoint: dict) -> dict[str, str]:
    """Take what the model's queues and banks cannot hold out of a checkpoint.

    So is all of terms that the model has not got.

    Returns:
        A sentence on each, by its name in the model.
    """
    # What may start anew: terms that train nothing of their own, queues and banks.
    terms = {f"terms.{n}": term for n, term in getattr(model, "terms", {}).items()}
    memories = [n for n, term in terms.items() if not list(term.parameters())]
    modules = model.named_modules()
    memories += [n for n, m in modules if getattr(m, "may_start_anew", False)]

    notes: dict[str, str] = {}
    state = as_loaded(checkpoint, "").tensors
    ours = any(n.startswith("clock.") for n in state)
    for name in memories:
        wanted = model.get_submodule(name).state_dict()
        saved = below(state, f"{name}.")
        if not wanted or name.startswith(tuple(f"{n}." for n in notes)):
            continue
        if ours and not saved:
            notes[name] = f"{name} is not in the checkpoint: it starts empty."
        elif saved and not compare(wanted, saved, whole=True).complete:
            notes[name] = (
                f"{name} has other sizes in the checkpoint than in the config: it "
                "starts empty."
            )
    gone = {".".join(n.split(".")[:2]) for n in state if n.startswith("terms.")}
    for name in sorted(gone - terms.keys()):
        notes[name] = f"{name} of the checkpoint is not used: the model has not got it."
    container = _container(checkpoint)
    for key in [n for n in state if n.startswith(tuple(f"{m}." for m in notes))]:
        container.pop(key, None)
        container.pop(f"module.{key}", None)
    return notes
