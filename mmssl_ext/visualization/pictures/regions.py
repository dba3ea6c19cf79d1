"""RegionCL's picture: images with a region of another one, and the cells of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.visualization.curves import FAINT

from .sheet import COLORS, LINE, Sheet, draw_cells, frame, mark, show

_HEADS = ("query view", "its partner", "mixed image", "canvas cells", "paste cells")


def draw_regions(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw the mixed images, and which of their cells are pooled for which key."""
    order, grid, mixed = found["order"], found["grid"], found["mixed"]
    if len(order) < 2:
        raise UserValueError(
            "A region is swapped between two images; give a folder with two or more, "
            "and --num 2 or more."
        )
    sheet = Sheet(
        f"{name}: a rectangle swapped between images",
        (
            "A mixed image shows two images. Each part is pooled from its own cells of "
            "the feature map and must find the key (another view, not shown) of the "
            "image that it comes from. Every colour stands for one image.",
        ),
        len(labels),
        len(_HEADS),
    )
    for ax, head in zip(sheet.axes[0], _HEADS, strict=True):
        ax.set_title(head)
    query, (height, width) = views[0], views[0].shape[1:3]
    top, left, rows, columns = found["region"]
    box = (left / width, top / height, (left + columns) / width, (top + rows) / height)
    inside = region_mask(found["region"], (height, width), grid)
    for i, partner in enumerate(order):
        own, other = (COLORS[j % len(COLORS)] for j in (i, partner))
        gray = np.asarray(Image.fromarray(mixed[i]).convert("L").convert("RGB"))
        canvas, paste = tinted(gray, ~inside, own), tinted(gray, inside, other)
        shown = (query[i], query[partner], mixed[i], canvas, paste)
        captions = (
            (f"image {i + 1}", own),
            (f"image {partner + 1}", other),
            (f"{partner + 1} pasted into {i + 1}", FAINT),
            (f"{(~inside).sum()} cells: find key {i + 1}", own),
            (f"{inside.sum()} cells: find key {partner + 1}", other),
        )
        for ax, pixels, (caption, color) in zip(
            sheet.axes[i], shown, captions, strict=True
        ):
            show(ax, pixels)
            sheet.below(ax, caption, color=color, loc="center")
        for ax, color in zip(sheet.axes[i], (own, other, own), strict=False):
            frame(ax, color, 2.2)
        mark(sheet.axes[i, 2], box, other, 2.2)
        for ax in sheet.axes[i, 3:]:
            draw_cells(ax, grid, 0.8)
            frame(ax, LINE, 0.7)
    return sheet


def tinted(pixels: np.ndarray, mask: np.ndarray, color: str) -> np.ndarray:
    """Tint the cells (h x w) of a mask in an image H x W x 3, and fade all others."""
    return painted(pixels, np.where(mask[..., None], to_rgb(color), 1.0))


def painted(pixels: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """Tint the cells of an image H x W x 3, and fade those whose tint is white.

    ``tints`` are h x w x 3, from 0 to 1.
    """
    rows, columns = (
        np.arange(size) * cells // size
        for size, cells in zip(pixels.shape[:2], tints.shape[:2], strict=True)
    )
    tint = tints[rows[:, None], columns]
    share = np.where((tint == 1).all(2, keepdims=True), 0.85, 0.5)
    return np.rint(255 * tint * share + pixels * (1 - share)).astype(np.uint8)


def region_mask(
    region: Sequence[int], size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Which cells (h x w) of an image of a size (H, W) lie in a region of pixels.

    A region is top, left, height and width, in whole cells of the ``grid`` (h, w).
    """
    start, side = np.array(region).reshape(2, 2)
    first, last = start * grid // size, (start + side) * grid // size
    mask = np.zeros(grid, bool)
    mask[first[0] : last[0], first[1] : last[1]] = True
    return mask
