"""DenseCL's picture: which cell of the key view each cell of the query view picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.visualization.curves import INK

from .matches import Matches, distances, draw_pair, true_places
from .sheet import STRENGTH, Sheet, signed


def draw_cells_of(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw the most similar third of the pairs of cells."""
    grid, match, similarity = found["grid"], found["match"], found["similarity"]
    if views[0].shape != views[1].shape:
        raise UserValueError(
            "Query and key view differ in size, hence in their cells; let the pipeline "
            "make both of one size."
        )
    best = [most_similar(row) for row in similarity]
    sheet = Sheet(
        f"{name}: cells of two views that look alike",
        (
            f"Each of the {grid[0]} x {grid[1]} cells of a view picks the cell of the "
            "other view with the most similar features. Drawn: the "
            f"{len(best[0])} most similar pairs of each image.",
        ),
        len(labels),
        5,  # the middle one is for the lines
        ratios=[0.3, 1, 0.8, 1, 0.3],
    )
    drawn = np.take_along_axis(similarity, np.array(best), 1)
    span = sheet.color_bar(drawn.min(), drawn.max(), STRENGTH)
    for ax, head in zip(sheet.axes[0, [1, 3]], ("query view", "key view"), strict=True):
        ax.set_title(head)
    boxes = found.get("boxes")  # N x V x 4
    for i, label in enumerate(labels):
        query, key = axes = sheet.axes[i, [1, 3]].tolist()
        pairs = Matches(best[i], match[i, best[i]], similarity[i, best[i]])
        pixels = [view[i] for view in views[:2]]
        draw_pair(sheet, axes, pixels, (grid, grid), pairs, span, bend=-0.08)
        count = len(match[i])
        text = (
            f"{len(np.unique(match[i]))} of {count} key cells picked, "
            f"{(match[i] == np.arange(count)).sum()} of {count} pairs at the same "
            f"place; mean cosine {signed(similarity[i].mean())}"
        )
        sheet.below(query, label, text, color=INK)
        if boxes is not None and boxes[i].isfinite().all():
            text = agreement(match[i], grid, boxes[i])
            sheet.below(key, text)
    return sheet


def most_similar(similarity: np.ndarray) -> np.ndarray:
    """Which third of the pairs, rounded up, is the most similar; the best is last."""
    return np.argsort(similarity, kind="stable")[-len(similarity) // 3 :]


def agreement(match: np.ndarray, grid: tuple[int, int], boxes: Tensor) -> str:
    """How many matches (key cell of each query cell, h*w) are at the true place."""
    true = true_places(grid, boxes)
    seen = np.flatnonzero(((true >= 0) & (true <= 1)).all(1))
    if not len(seen):
        return "the key view shows none of these cells"
    far, near = distances(seen, match[seen], (grid, grid), boxes)
    return (
        f"{(far <= 1).sum()} of the {len(seen)} cells that the key view shows too are "
        f"matched within one cell of their true place (by chance {near.mean():.0%})"
    )
