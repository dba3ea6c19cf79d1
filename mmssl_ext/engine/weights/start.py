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

from .files import find_tensors
from .names import below, best_prefix
from .record import describe_weights, find_record, input_changes, structure_changes
from .report import LoadReport, compare, explain
from .values import check_values


def check_start(
    model: nn.Module, checkpoint: dict, path: str, training: bool = True
) -> list[str]:
    """Verify a checkpoint before mmengine loads what it can of it.

    Args:
        model: That is to start from it.
        checkpoint: As read. The state of a queue or bank that has other sizes than the
            model's is taken out of it: that starts anew.
        path: Of its file, for the messages.
        training: Whether the model will be trained; a test needs every tensor.

    Returns:
        Sentences for the log on what differs and may.

    Raises:
        CheckpointFileError: It does not fit, or holds weights that no working network
            has. The message says what it holds and how to start from that.
    """
    suit(model, _container(checkpoint))
    notes = _forget_memory(model, checkpoint)
    state, wanted = _state(checkpoint), model.state_dict()
    whole = getattr(model, "starts_whole", False)
    if whole:
        anew = tuple(f"{name}." for name in notes)
        wanted = {n: v for n, v in wanted.items() if not n.startswith(anew)}
    report = compare(wanted, state, whole)
    part = _required(report, model, whole or not training)
    if not part.matched or not (part.complete if whole else _is_filled(part)):
        needed = "the model" if whole or not training else "the backbone"
        raise CheckpointFileError(
            f"load_from={path} does not fit: {part.summary()}, and every tensor of "
            f"{needed} must be there.{advice(model, checkpoint, path)}{part.details()}"
        )
    floating = {n for n, v in wanted.items() if v.is_floating_point()}
    check_values({n: state[n] for n in report.matched}, path, floating)
    texts = list(notes.values())
    if not whole and not (report.complete and not report.unused):
        texts.append(_rest(report, path))
    return texts + _changes(model, checkpoint, path, training)


def can_start(model: nn.Module, checkpoint: dict, path: str) -> bool:
    """Whether :func:`check_start` takes a checkpoint, which stays as it is."""
    try:
        check_start(model, {**checkpoint, "state_dict": {**_state(checkpoint)}}, path)
    except CheckpointFileError:
        return False
    return True


def advice(model: nn.Module, checkpoint: Mapping[str, Any], path: str) -> str:
    """How to start from the backbone in a file that is of another model, if any."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return ""
    wanted = backbone.state_dict()
    try:
        tensors = find_tensors(checkpoint, path)
    except CheckpointFileError as error:
        return f" {error}"
    prefix = best_prefix(wanted, tensors, "query")
    if prefix is None:
        return " It holds no backbone of this kind."
    source = below(tensors, prefix)
    if compare(wanted, source).complete:
        return (
            f" It holds a backbone that fits, under '{prefix}': to start from that, "
            "leave load_from out and set "
            "model.backbone.init_cfg.type=mmssl_ext.PretrainedBackbone "
            f"model.backbone.init_cfg.checkpoint={path} (in configs/transfer: "
            f"checkpoint={path})."
        )
    causes = explain(wanted, source) or ["It is not of the same architecture."]
    return f" Nor does its backbone, under '{prefix}', fit: {' '.join(causes)}"


def _state(checkpoint: dict) -> dict[str, Tensor]:
    """The tensors as mmengine's Runner will load them."""
    state = _container(checkpoint)
    tensors = ((n, v) for n, v in state.items() if isinstance(v, Tensor))
    return {str(name).removeprefix("module."): value for name, value in tensors}


def _container(checkpoint: dict) -> dict[str, Any]:
    state = checkpoint.get("state_dict", checkpoint)
    return state if isinstance(state, dict) else {}


def _memories(model: nn.Module) -> list[str]:
    """What may start anew: terms that train nothing of their own, queues and banks."""
    terms = getattr(model, "terms", {}).items()
    bare = [f"terms.{n}" for n, t in terms if not list(t.parameters())]
    modules = model.named_modules()
    return bare + [n for n, m in modules if getattr(m, "may_start_anew", False)]


def _forget_memory(model: nn.Module, checkpoint: dict) -> dict[str, str]:
    """Take what the model's queues and banks cannot hold out of a checkpoint.

    So is all of terms that the model has not got.

    Returns:
        A sentence on each, by its name in the model.
    """
    notes: dict[str, str] = {}
    state = _state(checkpoint)
    ours = any(n.startswith("clock.") for n in state)
    for name in _memories(model):
        wanted = model.get_submodule(name).state_dict()
        saved = below(state, f"{name}.")
        if not wanted or any(name.startswith(f"{n}.") for n in notes):
            continue
        if ours and not saved:
            notes[name] = f"{name} is not in the checkpoint: it starts empty."
        elif saved and not compare(wanted, saved, whole=True).complete:
            notes[name] = (
                f"{name} has other sizes in the checkpoint than in the config: it "
                "starts empty."
            )
    gone = {".".join(n.split(".")[:2]) for n in state if n.startswith("terms.")}
    for name in sorted(gone - {f"terms.{n}" for n in getattr(model, "terms", ())}):
        notes[name] = f"{name} of the checkpoint is not used: the model has not got it."
    container = _container(checkpoint)
    for key in [k for n in notes for k in state if k.startswith(f"{n}.")]:
        container.pop(key, None)
        container.pop(f"module.{key}", None)
    return notes


def _required(report: LoadReport, model: nn.Module, whole: bool) -> LoadReport:
    """The part of a report that must be complete: the backbone's, if there is one."""
    if whole or not hasattr(model, "backbone"):
        return report
    kinds = {
        kind: tuple(n for n in names if n.startswith("backbone."))
        for kind, names in vars(report).items()
        if kind != "unused"
    }
    return LoadReport(**kinds, unused=())


def _is_filled(report: LoadReport) -> bool:
    return not (report.missing or report.misfits)


def _rest(report: LoadReport, path: str) -> str:
    """What differs beside the backbone: often a head of other classes, on purpose."""
    anew = sorted({n.split(".")[0] for n in report.missing + report.mismatched})
    left = sorted({n.split(".")[0] for n in report.unexpected + report.unused})
    parts = [f"Weights from {path}: {report.summary()}."]
    if anew:
        parts.append(f"Not all of {', '.join(anew)} was there: the rest is random.")
    if left:
        parts.append(f"Not used: parts of {', '.join(left)}.")
    return " ".join(parts)


def _changes(
    model: nn.Module, checkpoint: Mapping[str, Any], path: str, training: bool
) -> list[str]:
    record, now = find_record(checkpoint.get("meta")), describe_weights(model)
    changes = structure_changes(record, now["backbone"])
    if changes and not training:
        raise CheckpointFileError(
            f"The weights of {path} would compute other features in this model: "
            f"{'; '.join(changes)}. Set the options of model.backbone to those of the "
            "file."
        )
    changes += input_changes(record, now["input"])
    if not changes:
        return []
    return [
        f"The weights of {path} were trained otherwise than this run uses them: "
        f"{'; '.join(changes)}."
    ]
