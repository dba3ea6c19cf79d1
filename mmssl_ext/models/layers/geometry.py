"""Which places of two views of an image are the same place.

A batch carries ``boxes``, N x V x 4: the places (x0, y0, x1, y1) of the upper left and
the lower right corner of each view in its image, as edges and in units of the image's
width and height; a mirrored view has x0 > x1. The functions here take those of one
view, N x 4, for two views a and b. A point of a view is (u, v) in [0, 1]^2, from its
upper left corner, mirrored or not.

Boxes and distances are in single precision at least, also under autocast. Boxes get no
gradient; maps do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_ext.errors import UserValueError


def require_boxes(boxes: Tensor | None, name: str, views: Sequence[int]) -> Tensor:
    """Refuse a batch of which it is not known where its views were cut.

    It waits for the device; whether a view has a box does not change during training,
    so call it once before.

    Args:
        boxes: Of the batch, N x V x 4, or None where it has none.
        name: Of the method, for the message.
        views: Numbers of those that must have a box.

    Returns:
        ``boxes``.

    Raises:
        ValueError: There are none, or one is not known.
    """
    if boxes is None or boxes.size(1) <= max(views, default=-1):
        raise UserValueError(
            f"{name} compares the same places of an image in its views, but the batch "
            "does not say where each view was cut (boxes); let MakeViews and PackViews "
            "of mmssl_ext make the views."
        )
    unknown = boxes.isnan().any(2).any(0).tolist()
    if missing := [str(view + 1) for view in views if unknown[view]]:
        which = " and ".join(missing)
        raise UserValueError(
            f"{name} compares the same places of an image in its views, but where view "
            f"{which} was cut is not known: leave out CutPatches there, and set "
            "keeps_box = True on a transform of your own if it moves no pixel or calls "
            "move_box."
        )
    return boxes


def cell_centres(h: int, w: int, like: Tensor | None = None) -> Tensor:
    """Centres (u, v) of the cells of an h x w map, row by row: h*w x 2.

    Type and device are those of ``like``; without it the values are double, on the CPU.
    """
    like = torch.empty(0, dtype=torch.float64) if like is None else like
    v, u = ((torch.arange(n, device=like.device) + 0.5).to(like) / n for n in (h, w))
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1).view(-1, 2)


def to_image(points: Tensor, boxes: Tensor) -> Tensor:
    """Points (u, v) of a view in units of its image, N x M x 2.

    Args:
        points: M x 2, or N x M x 2.
        boxes: N x 4.
    """
    start, end = _full(boxes)[:, None].chunk(2, -1)  # N x 1 x 2
    return start + points * (end - start)


def to_view(points: Tensor, boxes: Tensor) -> Tensor:
    """Points of the image, N x M x 2 or M x 2, as (u, v) of a view: N x M x 2.

    Outside of [0, 1] they are not in the view.
    """
    start, end = _full(boxes)[:, None].chunk(2, -1)
    return (points - start) / (end - start)


def pairs(
    boxes_a: Tensor,
    boxes_b: Tensor,
    h: int,
    w: int,
    thr: float = 0.7,
    size_b: tuple[int, int] | None = None,
) -> Tensor:
    """Which cells of two maps lie close to each other in the image.

    As in PixPro (arXiv 2011.10043): their centres are nearer than ``thr`` times the
    larger of the diagonals of a cell of a and of b, in units of the image.

    Args:
        boxes_a: N x 4.
        boxes_b: N x 4.
        h: Rows of a's map.
        w: Columns of a's map.
        thr: In diagonals of a cell.
        size_b: Cells (h, w) of b's map, if these are others than a's.

    Returns:
        Cells of a by cells of b, N x h*w x h*w bool, row by row each. Also cells just
        outside of the overlap can be close.
    """
    full, (h_b, w_b) = _full(boxes_a), size_b or (h, w)
    a = to_image(cell_centres(h, w, full), boxes_a)
    b = to_image(cell_centres(h_b, w_b, full), boxes_b)
    distance = (a[:, :, None] - b[:, None]).square().sum(-1)
    limit = thr * torch.maximum(
        _cell_diagonal(boxes_a, h, w), _cell_diagonal(boxes_b, h_b, w_b)
    )
    return distance < limit.square()[:, None, None]


def _cell_diagonal(boxes: Tensor, h: int, w: int) -> Tensor:
    start, end = _full(boxes).chunk(2, -1)
    return ((end - start) / start.new_tensor([w, h])).norm(dim=-1)  # N


def warp(
    map_b: Tensor,
    boxes_a: Tensor,
    boxes_b: Tensor,
    size: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Read the map of view b at the centres of the cells of view a.

    Args:
        map_b: N x C x h x w.
        boxes_a: N x 4.
        boxes_b: N x 4.
        size: Cells (h, w) of a's map, if these are others than b's.

    Returns:
        N x C x h x w, bilinear, and a mask N x h x w of the cells whose centre view b
        shows. The others repeat b's border.
    """
    h, w = size or map_b.shape[-2:]
    grid, valid = centre_grid(boxes_a, boxes_b, h, w)
    return sample(map_b, grid), valid


def centre_grid(
    boxes_a: Tensor, boxes_b: Tensor, h: int, w: int
) -> tuple[Tensor, Tensor]:
    """Where the centres of the h x w cells of view a are in view b.

    Returns:
        A grid for :func:`sample` of b's map, N x h x w x 2, and a mask N x h x w of
        those that b shows.
    """
    points = to_view(to_image(cell_centres(h, w, _full(boxes_a)), boxes_a), boxes_b)
    points = points.view(-1, h, w, 2)
    return 2 * points - 1, ((points >= 0) & (points <= 1)).all(-1)


def overlap(boxes_a: Tensor, boxes_b: Tensor) -> tuple[Tensor, Tensor]:
    """The part of the image that both views show.

    Returns:
        Its box, N x 4, upright, x0 < x1 whether the views are mirrored or not; and a
        mask N, False where they do not overlap, which leaves the box without meaning.
    """
    a, b = (_full(boxes).view(-1, 2, 2) for boxes in (boxes_a, boxes_b))
    low = torch.maximum(a.amin(1), b.amin(1))  # N x 2
    high = torch.minimum(a.amax(1), b.amax(1))
    return torch.cat([low, high], 1), (high > low).all(-1)


def overlap_grid(
    boxes_a: Tensor, boxes_b: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the image that both views show, evenly spread over their overlap.

    Returns:
        Grids for :func:`sample` of a's and of b's map, N x size x size x 2 each, where
        equal positions are the same place of the image, in upright order; and a mask
        N, False where the views do not overlap. The grids are the views' centres then,
        and what is sampled there has to be left out.
    """
    common, valid = overlap(boxes_a, boxes_b)
    points = to_image(cell_centres(size, size, common), common)
    grids = []
    for boxes in (boxes_a, boxes_b):
        grid = 2 * to_view(points, boxes) - 1
        grid = torch.where(valid[:, None, None], grid, 0.0)
        grids.append(grid.view(-1, size, size, 2))
    return grids[0], grids[1], valid


def apart(grid: Tensor, h: int, w: int) -> Tensor:
    """Which points of a map are at least one of its h x w cells apart.

    Along x or along y: of two points nearer than that, :func:`sample` reads mostly the
    same cells. Those exactly a cell apart, but for rounding, are apart.

    Args:
        grid: N x M x 2, as for :func:`sample`.
        h: Rows of the map.
        w: Columns of the map.

    Returns:
        N x M x M bool, False for a point and itself.
    """
    steps = (grid[:, :, None] - grid[:, None]).abs() * grid.new_tensor([w / 2, h / 2])
    return steps.amax(-1) > 1 - 1e-3


def sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Read maps at points, bilinear; beyond the outer centres they repeat the border.

    Args:
        maps: N x C x h x w.
        grid: N x H x W x 2, (x, y) from -1 to 1 between the edges of the map.

    Returns:
        N x C x H x W in single precision at least.
    """
    kind = torch.promote_types(_full(maps).dtype, grid.dtype)
    # The backward of torch reads beyond its memory at places that are no numbers, as of
    # a view without a box.
    grid = grid.to(kind).nan_to_num(0.0, 2.0, -2.0)
    return F.grid_sample(
        maps.to(kind), grid, padding_mode="border", align_corners=False
    )


def _full(values: Tensor) -> Tensor:
    """In single precision, unless it is double."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
