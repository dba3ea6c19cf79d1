"""Do backbone, neck and head fit each other? Tried on one image, before any work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

# Options of mmpretrain's backbones that return vectors, and their values for maps.
_MAPS_BY = {"out_type": "featmap", "gap_before_final_norm": False}
# Where a head has its first layer, and the option that says what this takes.
_HEADS = {
    "predictor": "head.predictor.in_channels",
    "fc": "head.in_channels",
    "bn": "head.in_channels",  # of Barlow Twins
    "loss_module.prototypes": "head.loss.feat_dim",  # of SwAV
}
_REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)


def pooled(output: Any) -> Tensor:
    """Last output of a backbone, N x C x h x w or N x C, as vectors N x C."""
    last = output[-1] if isinstance(output, (list, tuple)) else output
    return last.flatten(2).mean(2) if last.ndim > 2 else last


def project(neck: nn.Module, output: Any) -> Any:
    """What a neck makes of a backbone's output.

    mmpretrain's ``SwAVNeck`` takes a list, an output for each size of crops.
    """
    of_sizes = any(kind.__name__ == "SwAVNeck" for kind in type(neck).__mro__)
    return neck([output] if of_sizes else output)


def map_channels(backbone: Any) -> int | None:
    """Channels of a backbone's last output: as it says, or of an image of zeros.

    None where it fails on that. Nothing of it changes.
    """
    known = getattr(backbone, "feat_dim", None)
    if isinstance(known, int) or _first(nn.Conv2d, backbone) is None:
        return known
    try:
        return pooled(_of_zeros(backbone)).shape[1]
    except (*_REFUSALS, AttributeError):
        return None


def map_widths(backbone: nn.Module) -> list[int]:
    """Channels of each map that a backbone returns, of an image of zeros.

    Raises:
        ValueError: It returns no maps.
    """
    maps = _of_zeros(backbone)
    if not isinstance(maps, (list, tuple)) or any(x.ndim != 4 for x in maps):
        raise UserValueError(
            f"Feature maps are to be compared, but {_name(backbone)} returns "
            f"{_shapes(maps)}; let it return its maps."
        )
    return [x.shape[1] for x in maps]


@torch.no_grad()
def _of_zeros(backbone: nn.Module) -> Any:
    """What a backbone makes of 64 x 64 zeros; nothing of it changes."""
    first = _first(nn.Conv2d, backbone)
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        return backbone(torch.zeros(1, first.in_channels if first else 3, 64, 64))
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_parts(model: Any, images: Tensor) -> None:
    """Send images, N x C x H x W, through backbone and neck; compare the head.

    Raises:
        ValueError: Two parts do not fit; the message names both and what to set.
    """
    backbone, neck = model.backbone, getattr(model, "neck", None)
    size = " x ".join(map(str, images.shape[1:]))
    taker = f" (before {_name(neck)})" if neck is not None else ""
    what = f"{_name(backbone)}{taker} fails on images of {size}"
    with _explained(what, _backbone_remedy(backbone, images)):
        output = backbone(images)
    _check_output(backbone, neck, output)
    if neck is None:
        return
    what = f"{_name(backbone)} returns {_shapes(output)}, on which {_name(neck)} fails"
    with _explained(what, _neck_remedy(backbone, neck, output)):
        embedding = project(neck, output)
    _check_head(model, embedding)


def _backbone_remedy(backbone: nn.Module, images: Tensor) -> str:
    first = _first(nn.Conv2d, backbone)
    if first is not None and first.in_channels != images.shape[1]:
        return (
            f"its first layer takes {first.in_channels} channels: set "
            f"backbone.in_channels to {images.shape[1]}, {_read_as(images.shape[1])}"
        )
    return "choose its options for the views of the pipeline (image_size), or these"


def _read_as(channels: int) -> str:
    if channels == 3:
        return "for gray images are read as three equal channels"
    return "the number of bands, or let the images be read as RGB (bands=None)"


def _check_output(backbone: nn.Module, neck: Any, output: Any) -> None:
    many = isinstance(output, (list, tuple))
    tensors = [x for x in (output if many else [output]) if isinstance(x, Tensor)]
    if many and len(tensors) == len(output) > 0 and tensors[-1].ndim in (2, 4):
        return
    taker = f" with {_name(neck)}" if neck is not None else ""
    raise UserValueError(
        f"{_name(backbone)} returns {_shapes(output) if tensors else _name(output)}, "
        f"but a backbone{taker} must return a tuple of feature maps, N x C x h x w; "
        "take a class whose forward does so, such as mmpretrain's ResNet, or "
        "mmpretrain.TIMMBackbone with features_only=True."
    )


def _neck_remedy(backbone: nn.Module, neck: nn.Module, output: Any) -> str:
    channels, linear = output[-1].shape[1], _first(nn.Linear, neck)
    if output[-1].ndim == 2:
        flat = f"neck.gap_dim=0 and neck.in_channels={channels} of a LinearNeck"
        dense = hasattr(neck, "mlp2")  # it compares the cells of a map
        for option, value in _MAPS_BY.items():
            if hasattr(backbone, option):
                maps = f"set backbone.{option}={value!r} for maps"
                return maps if dense else f"{maps}, or {flat}"
        return "take a backbone that returns maps" if dense else f"set {flat}"
    if linear is not None and linear.in_features != channels:
        return f"set neck.in_channels to {channels}"
    if len(output) > 1:
        return "let the backbone return one map: backbone.out_indices=(3,) of a ResNet"
    return "give the neck the channels and the number of maps that the backbone returns"


def _check_head(model: Any, embedding: Any) -> None:
    """Compare the first layer of a head (a predictor, a classifier) with the neck."""
    head = getattr(model, "head", None)
    last = embedding[-1] if isinstance(embedding, (list, tuple)) else embedding
    if not isinstance(last, Tensor) or last.ndim != 2:
        return
    for place, option in _HEADS.items():
        part: Any = head
        for name in place.split("."):
            part = getattr(part, name, None)
        layer = _first((nn.Linear, nn.BatchNorm1d), part)
        if layer is None:
            continue
        taken = getattr(layer, "in_features", None) or layer.num_features
        if taken != last.shape[1]:
            raise UserValueError(
                f"{_name(model.neck)} after {_name(model.backbone)} returns "
                f"{last.shape[1]} features but {_name(head)} takes {taken}; "
                f"set {option} to {last.shape[1]}."
            )


def _first(kind: type | tuple[type, ...], module: Any) -> Any:
    """The first layer of a kind, or of some, within a module, or None."""
    modules = module.modules() if isinstance(module, nn.Module) else ()
    return next((m for m in modules if isinstance(m, kind)), None)


@contextlib.contextmanager
def _explained(what: str, remedy: str) -> Iterator[None]:
    """Turn what a part raises into one sentence; out of memory stays what it is."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except _REFUSALS as error:
        reason = " ".join(str(error).split()) or _name(error)
        raise UserValueError(f"{what} ({reason}); {remedy}.") from error


def _shapes(output: Any) -> str:
    many = isinstance(output, (list, tuple))
    shapes = (
        " x ".join(map(str, x.shape)) if isinstance(x, Tensor) else str(type(x))
        for x in (output if many else [output])
    )
    return ("" if many else "one tensor of ") + " and ".join(shapes)


def _name(module: Any) -> str:
    return type(module).__name__
