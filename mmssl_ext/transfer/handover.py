"""Pretrained weights into a backbone: all of them, verified, or an error.

``Pretrained``, mmengine's own initializer, loads what happens to match and goes on: a
wrong prefix leaves a randomly initialised detector and one line among thousands in the
log. Here every tensor of the backbone must arrive.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from torch import Tensor, nn

from mmssl_ext.engine.weights.download import local_path
from mmssl_ext.engine.weights.files import State, read_tensors, read_weights, some
from mmssl_ext.engine.weights.names import (
    below,
    best_prefix,
    explain_numbers,
    find_prefix,
)
from mmssl_ext.engine.weights.record import (
    Record,
    bottleneck_style,
    describe_backbone,
    structure_changes,
)
from mmssl_ext.engine.weights.report import LoadReport, compare, explain
from mmssl_ext.engine.weights.values import check_values
from mmssl_ext.errors import CheckpointFileError, UserValueError
from mmssl_ext.files import sha256
from mmssl_ext.registry import WEIGHT_INITIALIZERS
from mmssl_ext.unwrap import unwrap

__all__ = [
    "Handover",
    "PretrainedBackbone",
    "below",
    "best_prefix",
    "check_source",
    "find_prefix",
    "fingerprint",
    "handovers",
    "read_backbone",
    "read_tensors",
    "unwrapped",
]


_OF_A_RESNET = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")


@dataclass(frozen=True)
class Handover:
    """What was handed over to a module; stands at ``module.handover`` afterwards.

    Attributes:
        checkpoint: Path of the file.
        sha256: Of the file's bytes.
        prefix: What stands before the backbone's names in the file.
        report: What matched.
        fingerprint: :func:`fingerprint` of what was loaded, as the module holds it.
        record: What the file says that its weights were trained as.
    """

    checkpoint: str
    sha256: str
    prefix: str
    report: LoadReport
    fingerprint: str
    record: Record

    def line(self) -> str:
        """Return the line for the log."""
        return (
            f"Backbone from {self.checkpoint} (sha256 {self.sha256[:12]}), prefix "
            f"'{self.prefix}': {self.report.summary()}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "prefix": self.prefix,
            "fingerprint": self.fingerprint,
            **self.report.as_dict(),
        }


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

    Raises:
        CheckpointFileError: On initialisation, before anything is written to the
            module, unless every tensor matched and holds values that a working network
            has; or when the file cannot be read.
    """

    def __init__(
        self,
        checkpoint: str,
        encoder: str = "query",
        prefix: str | None = None,
        absent: Sequence[str] = (),
        style: str = "pytorch",
        trust: bool = False,
    ) -> None:
        if encoder not in ("query", "key"):
            raise UserValueError(f"encoder='{encoder}' must be 'query' or 'key'.")
        self.checkpoint = checkpoint
        self.encoder = encoder
        self.prefix = prefix
        self.absent = tuple(absent)
        self.style = style
        self.trust = trust

    def __call__(self, module: nn.Module) -> None:
        """Fill a module and leave the :class:`Handover` at ``module.handover``."""
        tensors, record = read_weights(self.checkpoint, self.trust)
        wanted = module.state_dict()
        names = [n for n in wanted if n.split(".")[0] not in self.absent]
        prefix = self.prefix
        if prefix is None:
            prefix = find_prefix(names, tensors, self.encoder, self.checkpoint)
        source = below(tensors, prefix)
        report = compare(wanted, source, absent=self.absent)
        if causes := self._objections(
            module, names, tensors, source, report, record["backbone"].get("style")
        ):
            raise CheckpointFileError(
                f"{type(module).__name__} cannot take its weights from "
                f"{self.checkpoint}, prefix '{prefix}': {report.summary()}."
                + "".join(f"\n{cause}" for cause in causes)
                + report.details()
                + f"\n  the file's names begin: {some(tensors)}"
                + f"\n  the model's names begin: {some(names)}"
            )
        found = {name: source[name] for name in report.matched}
        check_values(
            {prefix + name: value for name, value in found.items()},
            self.checkpoint,
            {prefix + n for n in found if wanted[n].is_floating_point()},
        )
        module.load_state_dict(found, strict=False)
        _keep(module, self.absent)
        filled = module.state_dict()
        handover = Handover(
            str(self.checkpoint),
            sha256(local_path(self.checkpoint)),
            prefix,
            report,
            fingerprint({name: filled[name] for name in found}),
            record,
        )
        module.handover = handover  # type: ignore[assignment]
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"PretrainedBackbone: {self.checkpoint}")
        print_log(handover.line(), logger="current")
        if changes := structure_changes(record, describe_backbone(module)):
            print_log(
                f"The weights of {self.checkpoint} compute other features in this "
                f"{type(module).__name__} than they were trained for: "
                f"{'; '.join(changes)}. Set the options of the model's backbone to "
                "those of the file, unless this is meant.",
                logger="current",
                level=WARNING,
            )

    def _objections(
        self,
        module: nn.Module,
        names: list[str],
        tensors: State,
        source: State,
        report: LoadReport,
        recorded_style: str | None,
    ) -> list[str]:
        """Sentences on what is wrong; none if the source fits."""
        causes = []
        if not report.complete:
            causes += explain(module.state_dict(), source)
            causes += [text] if (text := explain_numbers(tensors)) else []
            likely = best_prefix(names, tensors, self.encoder)
            if likely is not None and likely != self.prefix and self.prefix is not None:
                causes.append(f"The likely prefix is '{likely}'.")
            causes = causes or ["It is not a backbone of the same architecture."]
        expected = recorded_style or self.style
        if (style := bottleneck_style(module)) not in (None, expected):
            causes.append(
                f"The model's bottlenecks are of {style} style, the weights of "
                f"{expected} style: set style='{expected}' in the model. The "
                "tensors would fit and the features would be wrong."
            )
        return causes


def read_backbone(
    path: str | Path,
    encoder: str = "query",
    prefix: str | None = None,
    trust: bool = False,
) -> tuple[State, str, Record]:
    """The ResNet in a checkpoint, without a model at hand.

    Args:
        path: Of the file.
        encoder: ``query`` or ``key``.
        prefix: As for :class:`PretrainedBackbone`.
        trust: As for :class:`PretrainedBackbone`.

    Returns:
        Its tensors by torchvision's names, the prefix that they have in the file, and
        the file's record of what they were trained as.

    Raises:
        CheckpointFileError: The file cannot be read, holds no ResNet, or weights that
            no working network has.
    """
    tensors, record = read_weights(path, trust)
    if prefix is None:
        prefix = find_prefix(_OF_A_RESNET, tensors, encoder, path)
    parts = re.compile(r"(conv1|bn1|stem|layer\d)\.")
    state = {n: v for n, v in below(tensors, prefix).items() if parts.match(n)}
    if "layer1.0.conv1.weight" not in state:
        likely = best_prefix(_OF_A_RESNET, tensors, encoder)
        hint = "" if likely is None else f" The likely prefix is '{likely}'."
        raise CheckpointFileError(
            f"{path} holds no ResNet below '{prefix}'; its names begin: "
            f"{some(tensors)}.{hint}"
        )
    check_values({prefix + name: value for name, value in state.items()}, path)
    return state, prefix, record


def check_source(path: str | Path, encoder: str = "query") -> None:
    """Read what transfers will start from, before the first of them is run.

    Raises:
        CheckpointFileError: The file cannot be read, or its ResNet holds weights that
            no working network has.
    """
    tensors, _ = read_weights(path)
    prefix = best_prefix(_OF_A_RESNET, tensors, encoder)
    if prefix is not None:
        parts = {n: v for n, v in tensors.items() if n.startswith(prefix)}
        check_values(parts, path)


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
    for name, module in unwrapped(model).named_modules():
        if isinstance(handover := getattr(module, "handover", None), Handover):
            found[name] = handover
    return found


def unwrapped(model: nn.Module) -> nn.Module:
    """The model below a DDP wrapper."""
    inner: Any = unwrap(model)
    return inner


def _keep(module: nn.Module, absent: Sequence[str]) -> None:
    """Keep later initialisers off what was loaded.

    mmengine initialises the children after the module's own init_cfg unless that is
    called 'Pretrained'; mmpretrain's ResNet then zeroes the last norm of each block.
    """
    for name, child in module.named_children():
        if name not in absent:
            for part in child.modules():
                if isinstance(part, BaseModule):
                    part._is_init = True
    if getattr(module, "zero_init_residual", False):
        module.zero_init_residual = False  # type: ignore[assignment]
