"""Regions of feature maps by boxes, and boxes moved at random (CCOP, 2111.13651).

Boxes are (x0, y0, x1, y1), edges, in units of their view; in single precision at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from mmssl_ext.datasets.transforms.objects import Objects
from mmssl_ext.errors import UserValueError


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes, ... x 4 each; 0 where both are empty."""
    low, high = (
        torch.maximum(a[..., :2], b[..., :2]),
        torch.minimum(a[..., 2:], b[..., 2:]),
    )
    shared = (high - low).clamp(min=0).prod(-1)
    both = sum((x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b))
    return shared / (both - shared).clamp(min=1e-12)


def jitter_boxes(boxes: Tensor, noise: Tensor, shift: float, scale: float) -> Tensor:
    """Move and scale boxes, then cut them at the edges of the view.

    Args:
        boxes: M x 4.
        noise: Of each copy, M x J x 4 in [-0.5, 0.5]: to the right, down, wider,
            higher.
        shift: Width of the range of the centre's offset, in units of the box's sides.
        scale: Width of the range of the logarithm of the sides' factors.

    Returns:
        M x J x 4.
    """
    low, high = boxes[:, None].chunk(2, -1)  # M x 1 x 2
    sides = high - low
    centres = (low + high) / 2 + shift * noise[..., :2] * sides
    halves = sides * (scale * noise[..., 2:]).exp() / 2
    return torch.cat([centres - halves, centres + halves], -1).clamp(0, 1)


def pool_boxes(
    maps: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    size: int,
    limits: Sequence[float],
) -> Tensor:
    """RoIAlign on a pyramid, each box on the level of its size, in one call.

    The levels lie side by side on one canvas, each with its border repeated around it,
    which is what RoIAlign reads beyond the border of a map. So no box is counted by
    level, for which a device would have to be waited for.

    Args:
        maps: Levels, N x C x h x w, the finest first.
        boxes: M x 4.
        images: Row of each box's image, M.
        size: S.
        limits: Square root of the area, in cells of the finest level, up to which a box
            belongs to each level but the last.

    Returns:
        M x C x S x S, in single precision at least.
    """
    kind = torch.promote_types(maps[0].dtype, torch.float32)
    padded = [F.pad(x.to(kind), (1, 1, 1, 1), mode="replicate") for x in maps]
    first, rest = padded[0], padded[1:]
    width = max((x.shape[3] for x in rest), default=0)
    column = [F.pad(x, (0, width - x.shape[3])) for x in rest]
    height = max(first.shape[2], sum(x.shape[2] for x in rest))
    parts = [first, torch.cat(column, 2)] if rest else [first]
    canvas = torch.cat([F.pad(x, (0, 0, 0, height - x.shape[2])) for x in parts], 3)
    corners, top = [[1, 1]], 1  # of the levels on the canvas, (x, y)
    for level in rest:
        corners.append([first.shape[3] + 1, top])
        top += level.shape[2]
    boxes = boxes.to(kind)
    height, width = maps[0].shape[2:]
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides[:, 0] * width * sides[:, 1] * height  # in cells of the finest level
    level = torch.zeros_like(images)
    for limit in limits:
        level = level + (area > limit**2)

    def of_level(values: Sequence[int]) -> Tensor:  # M, without a copy from the host
        found = torch.zeros_like(area)
        for number, value in enumerate(values):
            found = torch.where(level == number, float(value), found)
        return found

    x, y = (of_level([corner[i] for corner in corners]) for i in (0, 1))
    h, w = (of_level([m.shape[i] for m in maps]) for i in (2, 3))
    offset, scale = torch.stack([x, y, x, y], 1), torch.stack([w, h, w, h], 1)
    rois = torch.cat([images[:, None].to(kind), boxes * scale + offset], 1)
    with torch.autocast(canvas.device.type, enabled=False):
        return roi_align(canvas, rois, size, aligned=True)


def padded(x: Tensor, objects: Objects, batch: int) -> Tensor:
    """Rows of the objects, M x ..., at their places: N P x ..., 0 elsewhere."""
    whole = x.new_zeros(batch * objects.most, *x.shape[1:])
    return whole.index_copy(0, objects.rows, x)


def require_objects(objects: Objects | None, who: str) -> Objects:
    """The objects of a batch.

    Raises:
        ValueError: Nothing is known of any.
    """
    if objects is None:
        raise UserValueError(
            f"{who} compares objects, but the batch has no boxes of any: make them by "
            "tools/make_proposals.py, and let the pipeline have LoadProposals behind "
            "the decoder and PlaceProposals behind MakeViews."
        )
    return objects
