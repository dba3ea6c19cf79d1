"""Write a pretrained backbone in the layouts of other libraries, and read it back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import mmssl_ext
from mmssl_ext.engine.weights.download import local_path
from mmssl_ext.engine.weights.files import (
    State,
    Weights,
    read_tensors,
    read_weights,
    renamed,
)
from mmssl_ext.engine.weights.match import below
from mmssl_ext.engine.weights.record import USUAL_STEM, USUAL_STRIDES
from mmssl_ext.engine.weights.report import averages_down, describe_resnet
from mmssl_ext.engine.weights.values import check_values
from mmssl_ext.errors import CheckpointFileError, UserError
from mmssl_ext.files import sha256
from mmssl_ext.room import writing

from .handover import OF_A_RESNET, backbone_in, fingerprint, holds_resnet
from .neck import neck_in

__all__ = ["export_backbone"]

#: Layout -> end of the file's name.
LAYOUTS = {
    "mm": "_mm.pth",
    "torchvision": "_torchvision.pth",
    "timm": "_timm.pth",
    "detectron2": "_detectron2.pth",
    "safetensors": ".safetensors",
}
# Those for ResNets of one structure.
_FIXED = ("torchvision", "timm", "detectron2")
# torchvision's names, which all others share, -> detectron2's, applied in turn;
# engine.weights.files undoes it.
_TO_DETECTRON2 = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


def export_backbone(
    checkpoint: str | Path,
    out: str | Path,
    layouts: Sequence[str] = tuple(LAYOUTS),
    encoder: str = "query",
    prefix: str | None = None,
    trust: bool = False,
    part: str = "backbone",
) -> dict[str, Path]:
    """Export the backbone of a checkpoint; each file is read back, compared by hash.

    * ``mm``: ``state_dict`` without prefix beside ``meta``, for mmengine's own
      ``init_cfg=dict(type="Pretrained", checkpoint=...)`` on a backbone.
    * ``torchvision``, ``timm``: the plain dict of tensors that ``load_state_dict`` of
      their ResNets takes (``strict=False``: it has no classifier).
    * ``detectron2``: renamed, to be set as ``MODEL.WEIGHTS`` with RGB input,
      ``MODEL.PIXEL_STD`` and ``RESNETS.STRIDE_IN_1X1=False``.
    * ``safetensors``: torchvision's names; the origin stands in its metadata.

    ``mm``, ``detectron2`` and ``safetensors`` also say what the weights come from. The
    other libraries' ResNets have fixed strides and stems; others are refused for them,
    and so are backbones that are no ResNets.

    Args:
        checkpoint: Source of any layout that ``PretrainedBackbone`` reads.
        out: Beginning of the paths: ``weights/co2`` gives ``weights/co2_mm.pth`` ...
        layouts: Keys of :data:`LAYOUTS`.
        encoder: As for ``PretrainedBackbone``, like ``prefix`` and ``trust``.
        prefix: See there.
        trust: See there; what is written holds tensors alone.
        part: ``backbone``, or ``neck`` for mmdet's FPN that was pretrained with it, in
            the layouts ``mm`` and ``safetensors``: ``weights/ccop_neck_mm.pth`` ...

    Returns:
        Path of each layout's file.

    Raises:
        UserError: The layout is unknown, or the source cannot be used.
    """
    if unknown := [name for name in layouts if name not in LAYOUTS]:
        raise UserError(
            f"There is no layout {', '.join(unknown)}; there are {', '.join(LAYOUTS)}."
        )
    checkpoint = local_path(checkpoint)
    weights = read_weights(checkpoint, trust)
    if part == "neck":
        state, found = _neck(weights, encoder, prefix, layouts)
        out = f"{out}_neck"
    else:
        state, found = _tensors(weights, encoder, prefix)
        _check_structure(checkpoint, state, weights.record["backbone"], layouts)
    origin = _origin(weights, checkpoint, state, found, encoder)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    written = {name: Path(f"{out}{LAYOUTS[name]}") for name in layouts}
    for name, path in written.items():
        _write_verified(path, name, state, origin)
    return written


def _origin(
    weights: Weights, path: Path, state: State, prefix: str, encoder: str
) -> dict[str, Any]:
    """What an exported file says of where it comes from, and how to build it."""
    return {
        "source": path.name,
        "source_sha256": sha256(path),
        "prefix": prefix,
        "encoder": encoder,
        "architecture": describe_resnet(state).get("depth", ""),
        "fingerprint": fingerprint(state),
        "mmssl_ext": mmssl_ext.__version__,
        "weights": weights.record,
        "origin": weights.origin,
        "license": weights.license,
        "backbone": dict(weights.backbone),
        "network": weights.network,
    }


def _tensors(weights: Weights, encoder: str, prefix: str | None) -> tuple[State, str]:
    """The backbone's tensors, and what stands before their names in the file."""
    own = {"query": "backbone.", "key": "target.backbone."}[encoder]
    found = below(weights.tensors, own)
    if prefix is not None or not found or holds_resnet(weights, encoder):
        return backbone_in(weights, encoder, prefix)[:2]
    check_values(found, weights.path, prefix=own)
    return found, own


def _neck(
    weights: Weights, encoder: str, prefix: str | None, layouts: Sequence[str]
) -> tuple[State, str]:
    """As :func:`_tensors`, of the neck."""
    if wrong := [name for name in layouts if name in _FIXED]:
        raise UserError(
            f"A neck has no layout {', '.join(wrong)}; choose --to mm safetensors."
        )
    return neck_in(weights, encoder, prefix)


def _write_verified(
    path: Path, layout: str, state: State, origin: dict[str, Any]
) -> None:
    """Write a file, which gets its name once it has been read back."""
    # safetensors and the reader go by the suffix, so the draft keeps it.
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with writing(path):
            _write(draft, layout, state, origin)
        if fingerprint(read_tensors(draft)) != origin["fingerprint"]:
            raise CheckpointFileError(
                f"What was written to {draft} differs from the source after reading "
                "it back; the disk or its file system is at fault."
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def to_detectron2(state: State) -> State:
    """Rename a ResNet's tensors as detectron2 does."""
    return {renamed(name, _TO_DETECTRON2): value for name, value in state.items()}


def _check_structure(
    path: Path, state: State, backbone: dict[str, Any], layouts: Sequence[str]
) -> None:
    """Refuse networks for libraries in which their weights compute something else."""
    fixed = [name for name in layouts if name in _FIXED]
    others = [name for name in LAYOUTS if name not in _FIXED]
    if fixed and (OF_A_RESNET[-1] not in state or backbone.get("type") == "RegNet"):
        raise UserError(
            f"{path} holds a {backbone.get('type') or 'network'} that is no ResNet; "
            f"{', '.join(fixed)} are for ResNets alone. Choose --layouts "
            f"{' '.join(others)}."
        )
    strides = backbone.get("strides", USUAL_STRIDES)
    stem = backbone.get("stem", USUAL_STEM)
    first = state.get("conv1.weight", torch.zeros(1, 3, 7, 7))
    size = "{2}x{3}".format(*first.shape)
    unlike = {
        f"strides ({', '.join(map(str, strides))})": (
            strides != USUAL_STRIDES[: len(strides)]
        ),
        "dilations": any(x > 1 for x in backbone.get("dilations", ())),
        "bottlenecks of caffe style": backbone.get("style") == "caffe",
        "a deep stem": "conv1.weight" not in state,
        f"an input of {first.shape[1]} bands": first.shape[1] != 3,
        f"a stem of {stem}": stem != USUAL_STEM,
        f"a stem of {size}": stem == USUAL_STEM and size != "7x7",
        "averages before it down-samples (avg_down)": averages_down(state),
    }
    found = [text for text, is_so in unlike.items() if is_so]
    if fixed and found:
        raise UserError(
            f"{path} holds a ResNet with {' and '.join(found)}; in the ResNet of "
            f"{', '.join(fixed)}, which has strides (1, 2, 2, 2) and a stem of "
            f"{USUAL_STEM}, its weights would compute other features. Choose --to "
            f"{' '.join(others)}, which say how it was built."
        )


def _write(path: Path, layout: str, state: State, origin: dict[str, Any]) -> None:
    state = {name: value.contiguous() for name, value in state.items()}
    if layout == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path, metadata={"mmssl_ext": json.dumps(origin)})
        return
    content: dict[str, Any] = {**state}
    if layout == "mm":
        content = {"state_dict": state, "meta": origin}
    elif layout == "detectron2":
        # By this flag detectron2 finds the names below `backbone.bottom_up`.
        content = {
            "model": to_detectron2(state),
            "matching_heuristics": True,
            "__author__": json.dumps(origin),
        }
    with path.open("wb") as file:  # whose errors say why, unlike torch's own
        torch.save(content, file)
