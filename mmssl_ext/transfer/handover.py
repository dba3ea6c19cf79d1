"""Pretrained weights into a backbone: all of them, verified, or an error.

``Pretrained``, mmengine's own initializer, loads what happens to match and goes on: a
wrong prefix leaves a randomly initialised detector and one line among thousands in the
log. Here every tensor of the backbone must arrive.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext import compat
from mmssl_ext.engine.weights.bands import explained, with_adapted
from mmssl_ext.engine.weights.download import local_path
from mmssl_ext.engine.weights.files import State, Weights, read_weights, some
from mmssl_ext.engine.weights.match import Match, below, best_prefix, find_prefix
from mmssl_ext.engine.weights.record import Record, bottleneck_style, structure_text
from mmssl_ext.engine.weights.report import LoadReport
from mmssl_ext.engine.weights.values import check_values
from mmssl_ext.engine.weights.wrapped import for_wrapper
from mmssl_ext.errors import CheckpointFileError, UserValueError
from mmssl_ext.files import sha256
from mmssl_ext.registry import WEIGHT_INITIALIZERS
from mmssl_ext.unwrap import unwrap

_may_be_gone = False  # what an init_cfg names, in a run that is resumed
#: Names of tensors by which a ResNet is known; a deep stem has not got the first two.
OF_A_RESNET = (
    *("conv1.weight", "bn1.weight", "layer3.0.conv1.weight", "layer2.0.conv1.weight"),
    "layer1.0.conv1.weight",
)


@dataclass(frozen=True)
class Handover:
    """What a module took from a file; stands at ``module.handover`` afterwards.

    Attributes:
        checkpoint: Path of the file.
        sha256: Of the file's bytes.
        prefix: What stands before the backbone's names in the file.
        report: What matched.
        fingerprint: :func:`fingerprint` of what was loaded, as the module holds it.
        record: What the file says that its weights were trained as.
        license: As the file states it; empty where it does not.
        part: Of the network, for the log.
    """

    checkpoint: str
    sha256: str
    prefix: str
    report: LoadReport
    fingerprint: str
    record: Record
    license: str = ""
    part: str = "Backbone"

    def line(self) -> str:
        """Return the line for the log."""
        return (
            f"{self.part} from {self.checkpoint} (sha256 {self.sha256[:12]}), prefix "
            f"'{self.prefix}': {self.report.summary()}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        names = ("checkpoint", "sha256", "prefix", "fingerprint")
        found = {n: getattr(self, n) for n in names} | self.report.as_dict()
        return found | ({"license": self.license} if self.license else {})


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Weight initializer that loads a backbone whole and verifies it.

    Reads checkpoints of this package, mmpretrain and mmselfsup, of official MoCo and
    its relatives, of torchvision, timm and detectron2, and safetensors files; never
    with full pickle unless told to.

    Args:
        checkpoint: Path of the file.
        encoder: ``query``, the trained encoder, or ``key``, its momentum average.
        prefix: What stands before the backbone's names; found by itself if None.
        absent: Children of the module that the file cannot have and that keep their
            own initialisation, such as a norm layer added behind a stage.
        style: Where the bottlenecks stride, ``pytorch`` (3x3 convolution) or ``caffe``
            (1x1): the tensors are alike, the features are not. Where the file does not
            say it; all the sources above are of ``pytorch`` style.
        trust: Let code stored in the file run, where its origin is certain.
        adapt_input: Where nothing differs but the number of bands that the first
            convolution takes, start each with the mean of its kernels in the file,
            scaled so that equal bands give what they gave.

    Raises:
        CheckpointFileError: On initialisation, before anything is written to the
            module, unless every tensor matched and holds values that a working network
            has; or when the file cannot be read.
    """

    part = "Backbone"

    def __init__(
        self,
        checkpoint: str,
        encoder: str = "query",
        prefix: str | None = None,
        absent: Sequence[str] = (),
        style: str = "pytorch",
        trust: bool = False,
        adapt_input: bool = False,
    ) -> None:
        if encoder not in ("query", "key"):
            raise UserValueError(f"encoder='{encoder}' must be 'query' or 'key'.")
        self.checkpoint = checkpoint
        self.encoder = encoder
        self.prefix = prefix
        self.absent = tuple(absent)
        self.style = style
        self.trust = trust
        self.adapt_input = adapt_input

    def __call__(self, module: nn.Module, weights: Weights | None = None) -> None:
        """Fill a module and leave the :class:`Handover` at ``module.handover``.

        ``weights`` are those of the file where it has been read already.
        """
        if _may_be_gone and not _is_there(self.checkpoint):
            print_log(
                f"{self.checkpoint} is not there anymore; the run goes on with the "
                "weights of its checkpoint.",
                logger="current",
                level=WARNING,
            )
            return
        weights = weights or read_weights(self.checkpoint, self.trust)
        weights = for_wrapper(weights, module, self.encoder)
        state = module.state_dict().items()
        wanted = {n: v for n, v in state if n.split(".")[0] not in self.absent}
        prefix = self.prefix
        if prefix is None:
            prefix = self.find(wanted, weights)
        match = Match(wanted, weights, prefix)
        if self.adapt_input:
            match = with_adapted(match)
        causes = [] if match.report.complete else explained(match)
        if not (match.report.complete or causes):
            causes = match.causes(self.encoder)
        causes += self._style(module, weights.record)
        if causes:
            match.refuse(
                f"{type(module).__name__} cannot take its weights from "
                f"{self.checkpoint}, prefix '{prefix}'",
                *causes,
            )
        found = match.sound()
        module.load_state_dict(found, strict=False)
        _keep(module, self.absent)
        filled = module.state_dict()
        handover = Handover(
            checkpoint=str(self.checkpoint),
            sha256=sha256(local_path(self.checkpoint)),
            prefix=prefix,
            report=match.report,
            fingerprint=fingerprint({name: filled[name] for name in found}),
            record=self.note(weights.record),
            license=weights.license,
            part=self.part,
        )
        module.handover = handover  # type: ignore[assignment]
        compat.note_initialised(module, f"PretrainedBackbone: {self.checkpoint}")
        print_log(handover.line(), logger="current")
        if text := structure_text(handover.record, module, self.checkpoint):
            print_log(text, logger="current", level=WARNING)

    def find(self, names: Iterable[str], weights: Weights) -> str:
        """What stands before the module's names in a file."""
        return find_prefix(names, weights, self.encoder)

    def note(self, record: Record) -> Record:
        """What of a file's record is kept."""
        return record

    def _style(self, module: nn.Module, record: Record) -> list[str]:
        """A sentence where the bottlenecks stride in another place."""
        expected = record["backbone"].get("style") or self.style
        if (style := bottleneck_style(module)) in (None, expected):
            return []
        return [
            f"The model's bottlenecks are of {style} style, the weights of {expected} "
            f"style: set style='{expected}' in the model. The tensors would fit and "
            "the features would be wrong."
        ]


def read_backbone(
    path: str | Path,
    encoder: str = "query",
    prefix: str | None = None,
    trust: bool = False,
) -> tuple[State, str, Record]:
    """The ResNet in a checkpoint, without a model at hand.

    The arguments are those of :class:`PretrainedBackbone`.

    Returns:
        Its tensors by torchvision's names, the prefix that they have in the file, and
        the file's record of what they were trained as.

    Raises:
        CheckpointFileError: The file cannot be read, holds no ResNet, or weights that
            no working network has.
    """
    return backbone_in(read_weights(path, trust), encoder, prefix)


def backbone_in(
    weights: Weights, encoder: str = "query", prefix: str | None = None
) -> tuple[State, str, Record]:
    """As :func:`read_backbone`, of weights that have been read."""
    path, found = weights.path, prefix
    if found is None:
        found = find_prefix(OF_A_RESNET, weights, encoder)
    parts = re.compile(r"(conv1|bn1|stem|layer\d)\.")
    state = {n: v for n, v in below(weights.tensors, found).items() if parts.match(n)}
    if OF_A_RESNET[-1] not in state:
        likely = best_prefix(OF_A_RESNET, weights.tensors, encoder)
        hint = "" if likely is None else f" The likely prefix is '{likely}'."
        raise CheckpointFileError(
            f"{path} holds no ResNet below '{found}'; its names begin: "
            f"{some(weights.tensors)}.{hint}"
        )
    check_values(state, path, prefix=found)
    return state, found, weights.record


def holds_resnet(weights: Weights, encoder: str = "query") -> bool:
    """Whether the tensors of a ResNet are among them."""
    prefix = best_prefix(OF_A_RESNET, weights.tensors, encoder)
    return prefix is not None and prefix + OF_A_RESNET[-1] in weights.tensors


@contextlib.contextmanager
def going_on(resumed: bool) -> Iterator[None]:
    """Let a resumed run do without the files that it began with.

    Every tensor comes from its checkpoint.
    """
    global _may_be_gone
    before, _may_be_gone = _may_be_gone, resumed
    try:
        yield
    finally:
        _may_be_gone = before


def _is_there(checkpoint: str) -> bool:
    try:
        return local_path(checkpoint).is_file()
    except CheckpointFileError:
        return False


def check_source(path: str | Path, encoder: str = "query") -> Weights:
    """Read what transfers will start from, before the first of them is run.

    Returns:
        What was read.

    Raises:
        CheckpointFileError: The file cannot be read, or its ResNet holds weights that
            no working network has.
    """
    weights = read_weights(path)
    prefix = best_prefix(OF_A_RESNET, weights.tensors, encoder)
    if prefix is not None:
        check_values(below(weights.tensors, prefix), path, prefix=prefix)
    return weights


def fingerprint(tensors: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and values; buffers of a module included."""
    state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def handovers(model: nn.Module) -> dict[str, Handover]:
    """Name of each submodule that took pretrained weights, and what it took."""
    found = {}
    for name, module in unwrap(model).named_modules():
        if isinstance(handover := getattr(module, "handover", None), Handover):
            found[name] = handover
    return found


def _keep(module: nn.Module, absent: Sequence[str]) -> None:
    """Keep later initialisers off what was loaded.

    mmengine initialises the children after the module's own init_cfg unless that is
    called 'Pretrained'; mmpretrain's ResNet then zeroes the last norm of each block,
    and its transformers draw their positions.
    """
    for name, child in module.named_children():
        if name not in absent:
            # Read of modules that are not mmengine's, as timm's
            setattr(child, "is_init", True)  # noqa: B010
            for part in child.modules():
                if isinstance(part, BaseModule):
                    compat.keep_initialised(part)
    if hasattr(module, "init_cfg"):
        module.init_cfg = {"type": "Pretrained", "checkpoint": ""}  # type: ignore
    if getattr(module, "zero_init_residual", False):
        module.zero_init_residual = False  # type: ignore[assignment]
