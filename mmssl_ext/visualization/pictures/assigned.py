"""DenseSiam's picture: to which region each cell of two views belongs most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image
from torch import Tensor

from mmssl_ext.visualization.curves import INK

from .matches import true_places
from .regions import painted
from .sheet import COLORS, Sheet, draw_cells, show

_HEADS = ("query view", "its regions", "key view", "its regions")


def draw_assigned(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw the regions of most cells of an image, each in a colour of its own."""
    total = found["num_regions"]
    sheet = Sheet(
        f"{name}: the regions that cells belong to",
        (
            "Every cell belongs to all regions in shares; drawn is its largest. In the "
            f"two views of an image a colour is one region, the {len(COLORS)} of most "
            "cells; cells of other regions are pale.",
        ),
        len(labels),
        len(_HEADS),
    )
    for ax, head in zip(sheet.axes[0], _HEADS, strict=True):
        ax.set_title(head)
    boxes = found.get("boxes")
    for i, label in enumerate(labels):
        axes = sheet.axes[i]
        sides = [side[i] for side in found["assigned"]]  # h x w each
        counts = Counter(np.concatenate([side.ravel() for side in sides]).tolist())
        most = [region for region, _ in counts.most_common(len(COLORS))]
        for ax, seen, view, side in zip(
            axes[::2], axes[1::2], views, sides, strict=False
        ):
            show(ax, view[i])
            tints = np.ones((*side.shape, 3))
            for color, region in zip(COLORS, most, strict=False):
                tints[side == region] = to_rgb(color)
            gray = np.asarray(Image.fromarray(view[i]).convert("L").convert("RGB"))
            show(seen, painted(gray, tints))
            draw_cells(seen, side.shape)
            sheet.below(seen, f"{len(np.unique(side))} of {total} regions")
        sheet.below(axes[0], label, color=INK)
        if boxes is not None and boxes[i].isfinite().all():
            sheet.below(axes[2], kept(sides[0], sides[1], boxes[i]))
    return sheet


def kept(first: np.ndarray, second: np.ndarray, boxes: Tensor) -> str:
    """How many cells that both views show are in the same region in both.

    Args:
        first: Region of each cell of a view, h x w.
        second: Likewise of the other view.
        boxes: Where the two were cut, 2 x 4.
    """
    u, v = true_places(first.shape, boxes).T
    seen = np.flatnonzero((u >= 0) & (u < 1) & (v >= 0) & (v < 1))
    if not len(seen):
        return "shows none of these cells"
    h, w = second.shape
    here = first.ravel()[seen]
    there = second[(v[seen] * h).astype(int), (u[seen] * w).astype(int)]
    chance = (here[:, None] == there).mean()
    return (
        f"{(here == there).sum()} of the {len(seen)} cells that both views show are in "
        f"the same region (by chance {chance:.0%})"
    )
