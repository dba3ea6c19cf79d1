"""Where in its own and in other images is what a cell shows?"""

from __future__ import annotations

import matplotlib
import numpy as np

from mmssl_ext.visualization.curves import FAINT, INK, ORANGE

from .sheet import Sheet, mark, show
from .subject import Subject, unit

TITLE = "Where is what a cell shows?"
JUDGE = (
    "Good: high on the same object or part, also in other images, and low elsewhere; "
    "bad: high everywhere, or only around the framed cell."
)
_COLUMNS, _QUERIES = 5, 3


def draw(subject: Subject) -> Sheet:
    """Draw how similar one framed cell is to all cells of its and other images."""
    maps = [list(m.values())[-1] for m in subject.maps]  # h x w x C
    indices, images = list(subject.shown), list(subject.shown.values())
    x, y = subject.options.patch
    rows = []
    for i in range(0, len(maps), 2)[:_QUERIES]:
        height, width = maps[i].shape[:2]
        cell = min(int(y * height), height - 1), min(int(x * width), width - 1)
        # Its own image, the next one (of the same class where these are known), others.
        order = [(i + k) % len(maps) for k in range(len(maps))][:_COLUMNS]
        rows.append((cell, {k: cosines(maps[i][cell], maps[k]) for k in order}))
    lowest = min(m.min() for _, found in rows for m in found.values())
    sheet = subject.sheet(
        TITLE,
        (
            "Below each image: cosine of each cell's feature and that of the cell "
            "framed in the first image of its row. One scale for all maps.",
        ),
        2 * len(rows),
        min(len(maps), _COLUMNS),
    )
    colors = matplotlib.colormaps["viridis"]
    span = sheet.color_bar(min(0.0, lowest), 1.0, colors)
    for line, ((row, column), found) in enumerate(rows):
        axes = sheet.axes[2 * line : 2 * line + 2]
        for place, (k, cosine) in enumerate(found.items()):
            upper, lower = axes[:, place]
            show(upper, subject.pixels(images[k]))
            aspect = upper.get_aspect()
            show(lower, cosine, cmap=colors, norm=span, aspect=aspect)
            sheet.below(lower, subject.label(indices[k]), color=FAINT if place else INK)
        height, width = maps[2 * line].shape[:2]
        box = column / width, row / height, (column + 1) / width, (row + 1) / height
        for ax in axes[:, 0]:
            mark(ax, box, ORANGE)
    return sheet


def cosines(feature: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Cosine of a feature (C) and every cell (h x w x C): h x w."""
    return unit(cells) @ unit(feature)
