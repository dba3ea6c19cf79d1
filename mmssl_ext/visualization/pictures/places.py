"""Places of two views: where geometry says that a cell is, and where features find it.

The picture of PixPro, PixContrast and LC-loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from mmssl_ext.models.layers.geometry import cell_centres
from mmssl_ext.visualization.curves import INK

from .cells import agreement
from .matches import true_places
from .sheet import COLORS, STRENGTH, Sheet, mark, show, signed

_POINTS = 5  # of each image


def draw_places(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw cells of a view, their places in the other one, and what they gather."""
    first, second = found["grids"]
    weights = found.get("propagation")
    boxes = found.get("boxes")
    gathers = (
        ""
        if weights is None
        else " On the right the weights by which the cell of the first colour gathers "
        "from the cells of its own view; the strongest, 1, is its own."
    )
    sheet = Sheet(
        f"{name}: the same places in two views",
        (
            "Cells of the query view in colours. In the key view a ring is where the "
            "crops say that the cell is, a cross the cell that features find most "
            f"alike; a line joins the two.{gathers}",
        ),
        len(labels),
        2 if weights is None else 3,
    )
    heads = ("query view", "key view", "what the cell gathers")
    for ax, head in zip(sheet.axes[0], heads, strict=False):
        ax.set_title(head)
    for i, label in enumerate(labels):
        axes, cosine = sheet.axes[i], found["cosine"][i]
        show(axes[0], views[0][i])
        show(axes[1], views[1][i])
        sheet.below(axes[0], label, color=INK)
        places = None
        if boxes is not None and boxes[i].isfinite().all():
            places = true_places(first, boxes[i])
        chosen = _choose(places, first)
        best = cosine.argmax(1)
        _draw_points(axes, chosen, places, best, first, second)
        text = f"mean cosine of the best {signed(cosine.max(1).mean())}"
        if boxes is not None and places is not None and first == second:
            text = agreement(best, first, boxes[i])
        sheet.below(axes[1], text)
        if weights is not None:
            cell = chosen[0] if len(chosen) else 0
            _draw_weights(axes[2], views[0][i], weights[i, cell], first, cell)
            sheet.below(axes[2], f"sum of the weights {weights[i, cell].sum():.1f}")
    return sheet


def _choose(places: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray:
    """Cells that are spread over those that the other view shows too, if any."""
    seen: np.ndarray = np.arange(grid[0] * grid[1])
    if places is not None:
        seen = np.flatnonzero(np.all((places >= 0) & (places <= 1), axis=1))
    count = min(_POINTS, len(seen))
    steps = (np.arange(count) + 0.5) * len(seen) / max(count, 1)
    return seen[steps.astype(int)]


def _draw_points(
    axes: Sequence[Axes],
    chosen: np.ndarray,
    places: np.ndarray | None,
    best: np.ndarray,
    first: tuple[int, int],
    second: tuple[int, int],
) -> None:
    halo: Any = {"path_effects": [withStroke(linewidth=3.2, foreground="white")]}
    here, there = (cell_centres(*grid).numpy() for grid in (first, second))
    for color, cell in zip(COLORS, chosen, strict=False):
        axes[0].plot(*here[cell], "o", color=color, ms=7, mec="white", mew=1.2)
        end = there[best[cell]]
        if places is not None:
            place = places[cell]
            axes[1].plot(*zip(place, end, strict=True), color=color, lw=1.2, **halo)
            axes[1].plot(*place, "o", mec=color, mfc="none", ms=9, mew=1.8, **halo)
        axes[1].plot(*end, "x", color=color, ms=7, mew=2, **halo)


def _draw_weights(
    ax: Axes, pixels: np.ndarray, row: np.ndarray, grid: tuple[int, int], cell: int
) -> None:
    """The weights of a cell, over the view in gray."""
    gray = pixels.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)
    show(ax, gray)
    size = gray.shape[0] / gray.shape[1]
    place: Any = {"extent": (0, 1, 1, 0), "aspect": size, "interpolation": "nearest"}
    ax.imshow(row.reshape(grid), cmap=STRENGTH, vmin=0, vmax=1, alpha=0.75, **place)
    (y, x), (h, w) = divmod(cell, grid[1]), grid
    mark(ax, (x / w, y / h, (x + 1) / w, (y + 1) / h), COLORS[0], 2.0)
