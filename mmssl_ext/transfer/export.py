"""Write a pretrained backbone in the layouts of other libraries, and read it back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mmssl_ext
from mmssl_ext.engine.weights.download import local_path
from mmssl_ext.engine.weights.files import read_tensors
from mmssl_ext.engine.weights.record import USUAL_STEM, USUAL_STRIDES, Record
from mmssl_ext.engine.weights.report import describe_resnet
from mmssl_ext.errors import CheckpointFileError, UserError
from mmssl_ext.files import sha256
from mmssl_ext.room import writing

from .handover import fingerprint, read_backbone
from .layouts import to_detectron2

__all__ = ["export_backbone"]

State = dict[str, Tensor]

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


def export_backbone(
    checkpoint: str | Path,
    out: str | Path,
    layouts: Sequence[str] = tuple(LAYOUTS),
    encoder: str = "query",
    prefix: str | None = None,
    trust: bool = False,
) -> dict[str, Path]:
    """Export the ResNet of a checkpoint.

    * ``mm``: ``state_dict`` without prefix beside ``meta``, for mmengine's own
      ``init_cfg=dict(type="Pretrained", checkpoint=...)`` on a backbone.
    * ``torchvision``, ``timm``: the plain dict of tensors that ``load_state_dict`` of
      their ResNets takes (``strict=False``: it has no classifier).
    * ``detectron2``: renamed, to be set as ``MODEL.WEIGHTS`` with RGB input,
      ``MODEL.PIXEL_STD`` and ``RESNETS.STRIDE_IN_1X1=False``.
    * ``safetensors``: torchvision's names; the origin stands in its metadata.

    ``mm``, ``detectron2`` and ``safetensors`` also say what the weights were trained as
    (:mod:`mmssl_ext.engine.weights.record`). The ResNets of torchvision, timm and
    detectron2 have fixed strides and stems; one with others is refused for them.

    Every file is read back and its tensors compared by hash before it gets its name.

    Args:
        checkpoint: Source of any layout that ``PretrainedBackbone`` reads.
        out: Path and beginning of the files' names: ``weights/co2`` gives
            ``weights/co2_mm.pth`` and so on.
        layouts: Keys of :data:`LAYOUTS`.
        encoder: ``query`` or ``key``.
        prefix: As for ``PretrainedBackbone``.
        trust: Let code stored in the source run, where its origin is certain. What is
            written holds tensors alone.

    Returns:
        Path of each layout's file.

    Raises:
        UserError: The layout is unknown, or the source cannot be read, holds weights
            that no working network has, or a ResNet that the library has not.
    """
    if unknown := [name for name in layouts if name not in LAYOUTS]:
        raise UserError(
            f"There is no layout {', '.join(unknown)}; there are {', '.join(LAYOUTS)}."
        )
    checkpoint = local_path(checkpoint)
    state, found, record = read_backbone(checkpoint, encoder, prefix, trust)
    _check_structure(checkpoint, state, record, layouts)
    origin = {
        "source": checkpoint.name,
        "source_sha256": sha256(checkpoint),
        "prefix": found,
        "encoder": encoder,
        "architecture": describe_resnet(state) or "",
        "fingerprint": fingerprint(state),
        "mmssl_ext": mmssl_ext.__version__,
        "weights": record,
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    written = {}
    for name in layouts:
        path = Path(f"{out}{LAYOUTS[name]}")
        # safetensors and the reader go by the suffix, so the draft keeps it.
        draft = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            with writing(path):
                _write(draft, name, state, origin)
            if fingerprint(read_tensors(draft)) != origin["fingerprint"]:
                raise CheckpointFileError(
                    f"What was written to {draft} differs from the source after "
                    "reading it back; the disk or its file system is at fault."
                )
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        written[name] = path
    return written


def _check_structure(
    checkpoint: str | Path, state: State, record: Record, layouts: Sequence[str]
) -> None:
    """Refuse a ResNet for libraries in which its weights compute something else."""
    fixed = [name for name in layouts if name in _FIXED]
    backbone = record["backbone"]
    strides = backbone.get("strides", USUAL_STRIDES)
    found = []
    if strides != USUAL_STRIDES[: len(strides)]:
        found.append(f"strides ({', '.join(map(str, strides))})")
    if any(x > 1 for x in backbone.get("dilations", ())):
        found.append("dilations")
    if backbone.get("style") == "caffe":
        found.append("bottlenecks of caffe style")
    stem = backbone.get("stem", USUAL_STEM)
    if "conv1.weight" not in state:
        found.append("a deep stem")
    elif stem != USUAL_STEM:
        found.append(f"a stem of {stem}")
    elif state["conv1.weight"].shape[2:] != (7, 7):
        found.append("a stem of {2}x{3}".format(*state["conv1.weight"].shape))
    if any(n.endswith("downsample.1.weight") and v.dim() > 1 for n, v in state.items()):
        found.append("averages before it down-samples (avg_down)")
    if fixed and found:
        others = [name for name in LAYOUTS if name not in _FIXED]
        raise UserError(
            f"{checkpoint} holds a ResNet with {' and '.join(found)}; in the ResNet of "
            f"{', '.join(fixed)}, which has strides (1, 2, 2, 2) and a stem of "
            f"{USUAL_STEM}, its weights would compute other features. Choose --layouts "
            f"{' '.join(others)}, which say how it was built."
        )


def _write(path: Path, layout: str, state: State, origin: dict[str, Any]) -> None:
    state = {name: value.contiguous() for name, value in state.items()}
    content: dict[str, Any] = dict(state)
    if layout == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path, metadata={"mmssl_ext": json.dumps(origin)})
        return
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
