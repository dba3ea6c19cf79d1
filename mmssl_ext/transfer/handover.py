"""Pretrained weights into a backbone: all of them, verified, or an error.

``Pretrained``, mmengine's own initializer, loads what happens to match and goes on: a
wrong prefix leaves a randomly initialised detector and one line among thousands in the
log. Here every tensor of the backbone must arrive.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from torch import Tensor, nn

from mmssl_ext.engine.checkpoint import load_checkpoint_file
from mmssl_ext.engine.errors import CheckpointFileError
from mmssl_ext.engine.load_report import LoadReport, compare, describe_resnet
from mmssl_ext.files import sha256, utf8_path
from mmssl_ext.registry import WEIGHT_INITIALIZERS
from mmssl_ext.unwrap import unwrap

from .layouts import from_detectron2, is_detectron2

State = dict[str, Tensor]

# A momentum, target or teacher network: mmpretrain's and official MoCo's encoder_k,
# BYOL's target_net, DINO's teacher.
_KEY_ENCODER = re.compile(
    r"(^|[._])(encoder_k|key|momentum|target|teacher|ema)([._]|$)"
)


@dataclass(frozen=True)
class Handover:
    """What was handed over to a module; stands at ``module.handover`` afterwards.

    Attributes:
        checkpoint: Path of the file.
        sha256: Of the file's bytes.
        prefix: What stands before the backbone's names in the file.
        report: What matched.
        fingerprint: :func:`fingerprint` of what was loaded, as the module holds it.
    """

    checkpoint: str
    sha256: str
    prefix: str
    report: LoadReport
    fingerprint: str

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
            (1x1): the tensors are alike, the features are not. All the sources above
            are of ``pytorch`` style.
        trust: Let code stored in the file run, where its origin is certain.

    Raises:
        CheckpointFileError: On initialisation, before anything is written to the
            module, unless every tensor matched; or when the file cannot be read.
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
            raise ValueError(f"encoder='{encoder}' must be 'query' or 'key'.")
        self.checkpoint = checkpoint
        self.encoder = encoder
        self.prefix = prefix
        self.absent = tuple(absent)
        self.style = style
        self.trust = trust

    def __call__(self, module: nn.Module) -> None:
        """Fill a module and leave the :class:`Handover` at ``module.handover``."""
        tensors = read_tensors(self.checkpoint, self.trust)
        wanted = module.state_dict()
        names = [n for n in wanted if n.split(".")[0] not in self.absent]
        prefix = self.prefix
        if prefix is None:
            prefix = find_prefix(names, tensors, self.encoder, self.checkpoint)
        source = below(tensors, prefix)
        report = compare(wanted, source, absent=self.absent)
        if causes := self._objections(module, names, tensors, source, report):
            raise CheckpointFileError(
                f"{type(module).__name__} cannot take its weights from "
                f"{self.checkpoint}, prefix '{prefix}': {report.summary()}."
                + "".join(f"\n{cause}" for cause in causes)
                + report.details()
                + f"\n  the file's names begin: {_some(tensors)}"
                + f"\n  the model's names begin: {_some(names)}"
            )
        found = {name: source[name] for name in report.matched}
        module.load_state_dict(found, strict=False)
        _keep(module, self.absent)
        filled = module.state_dict()
        handover = Handover(
            str(self.checkpoint),
            sha256(self.checkpoint),
            prefix,
            report,
            fingerprint({name: filled[name] for name in found}),
        )
        module.handover = handover  # type: ignore[assignment]
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"PretrainedBackbone: {self.checkpoint}")
        print_log(handover.line(), logger="current")

    def _objections(
        self,
        module: nn.Module,
        names: list[str],
        tensors: State,
        source: State,
        report: LoadReport,
    ) -> list[str]:
        """Sentences on what is wrong; none if the source fits."""
        causes = []
        if not report.complete:
            causes += _causes(module.state_dict(), source)
            likely = best_prefix(names, tensors, self.encoder)
            if likely is not None and likely != self.prefix and self.prefix is not None:
                causes.append(f"The likely prefix is '{likely}'.")
            causes = causes or ["It is not a backbone of the same architecture."]
        if (style := _style(module)) not in (None, self.style):
            causes.append(
                f"The model's bottlenecks are of {style} style, the weights of "
                f"{self.style} style: set style='{self.style}' in the model. The "
                "tensors would fit and the features would be wrong."
            )
        return causes


def read_tensors(path: str | Path, trust: bool = False) -> State:
    """All tensors of a checkpoint or safetensors file, by their full names.

    Args:
        path: Of the file.
        trust: Let code stored in it run; see :func:`load_checkpoint_file`.

    Raises:
        CheckpointFileError: The file is missing, damaged, holds Python objects, or no
            tensors.
    """
    path = Path(path).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            with utf8_path(path) as name:
                return load_file(name)
        except (SafetensorError, ValueError) as error:
            raise CheckpointFileError(
                f"{path} ({path.stat().st_size} bytes) is damaged or no safetensors "
                f"file: {error}."
            ) from error
    state: Any = load_checkpoint_file(path, trust)
    for name in ("state_dict", "model"):
        if isinstance(state.get(name), Mapping):
            state = state[name]
            break
    tensors = {n: v for n, v in state.items() if isinstance(v, Tensor)}
    if not tensors:
        raise CheckpointFileError(
            f"Checkpoint {path} holds no tensors at its top level, nor below "
            f"'state_dict' or 'model'. It has: {_some(map(str, state))}."
        )
    return from_detectron2(tensors) if is_detectron2(tensors) else tensors


def read_backbone(
    path: str | Path,
    encoder: str = "query",
    prefix: str | None = None,
    trust: bool = False,
) -> tuple[State, str]:
    """The ResNet in a checkpoint, without a model at hand.

    Args:
        path: Of the file.
        encoder: ``query`` or ``key``.
        prefix: As for :class:`PretrainedBackbone`.
        trust: As for :class:`PretrainedBackbone`.

    Returns:
        Its tensors by torchvision's names, and the prefix that they have in the file.

    Raises:
        CheckpointFileError: The file cannot be read or holds no ResNet.
    """
    tensors = read_tensors(path, trust)
    if prefix is None:
        names = ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight"]
        prefix = find_prefix(names, tensors, encoder, path)
    parts = re.compile(r"(conv1|bn1|stem|layer\d)\.")
    state = {n: v for n, v in below(tensors, prefix).items() if parts.match(n)}
    if "layer1.0.conv1.weight" not in state:
        raise CheckpointFileError(
            f"{path} holds no ResNet below '{prefix}'; its names begin: "
            f"{_some(tensors)}."
        )
    return state, prefix


def below(tensors: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors below a prefix, without it."""
    return {n[len(prefix) :]: v for n, v in tensors.items() if n.startswith(prefix)}


def find_prefix(
    names: Iterable[str], tensors: State, encoder: str, path: str | Path
) -> str:
    """What stands before the model's names in a file.

    Raises:
        CheckpointFileError: No name of the wanted encoder occurs, or two different
            networks fit alike.
    """
    names = list(names)
    ranked = _ranked(names, tensors, encoder)
    if not ranked:
        other = _ranked(names, tensors, "query" if encoder == "key" else "key")
        hint = f" It has {_or(f'{p!r}' for p, _ in other[:3])} for the other one."
        raise CheckpointFileError(
            f"0 of {len(names)} backbone tensors matched: {path} holds no "
            f"{encoder} encoder of this model.{hint if other else ''}"
            f"\n  the file's names begin: {_some(tensors)}"
            f"\n  the model's names begin: {_some(names)}"
        )
    (best, count), *rest = ranked
    for prefix, other_count in rest:
        if other_count == count and not _same(tensors, names, best, prefix):
            raise CheckpointFileError(
                f"{path} holds two different networks that fit, at '{best}' and "
                f"'{prefix}'. Say which: prefix='{best}'."
            )
    return best


def best_prefix(names: Iterable[str], tensors: State, encoder: str) -> str | None:
    """The prefix below which most of the names stand, or None."""
    ranked = _ranked(list(names), tensors, encoder)
    return ranked[0][0] if ranked else None


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


def _ranked(names: list[str], tensors: State, encoder: str) -> list[tuple[str, int]]:
    """Prefixes of one encoder with the number of names below them, best first."""
    wanted = set(names)
    counts: dict[str, int] = {}
    for key in tensors:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                prefix = "".join(f"{part}." for part in parts[:i])
                if bool(_KEY_ENCODER.search(prefix)) == (encoder == "key"):
                    counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], len(item[0])))


def _same(tensors: State, names: list[str], one: str, other: str) -> bool:
    pairs = ((tensors.get(one + n), tensors.get(other + n)) for n in names)
    return all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in pairs
    )


def _causes(model: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> list[str]:
    """Why a source cannot fit, as far as the names tell."""
    causes = []
    stems = [any(n.startswith("stem.") for n in s) for s in (model, source)]
    if stems[0] and "conv1.weight" in source:
        causes.append(
            "The model has a deep stem of three 3x3 convolutions (ResNetV1c, "
            "ResNetV1d), the file one 7x7 convolution: use type='ResNet' without "
            "deep_stem."
        )
    elif stems[1] and "conv1.weight" in model:
        causes.append(
            "The file has a deep stem (ResNetV1c, ResNetV1d), the model a plain one."
        )
    pooled = [_pools(s) for s in (model, source)]
    if pooled[0] != pooled[1]:
        causes.append(
            f"The {'model' if pooled[0] else 'file'} averages before it down-samples "
            "(avg_down, ResNetV1d), the other side does not."
        )
    found = [describe_resnet(s) for s in (model, source)]
    if found[0] and found[1] and found[0] != found[1]:
        causes.append(f"The model is a {found[0]}, the file holds a {found[1]}.")
    return causes


def _pools(state: Mapping[str, Tensor]) -> bool:
    return any(".downsample.1.weight" in n and v.dim() == 4 for n, v in state.items())


def _style(module: nn.Module) -> str | None:
    """Where the bottlenecks stride; None where none does."""
    for block in module.modules():
        if hasattr(block, "conv3") and hasattr(block, "conv2"):
            for name, style in (("conv1", "caffe"), ("conv2", "pytorch")):
                conv = getattr(block, name, None)
                if isinstance(conv, nn.Conv2d) and conv.stride[0] > 1:
                    return style
    return None


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


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")


def _or(names: Iterable[str]) -> str:
    return " or ".join(names)
