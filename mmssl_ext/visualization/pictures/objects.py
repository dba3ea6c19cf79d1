"""CCOP's picture: the objects of two views, and how far their boxes are moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .sheet import COLORS, Sheet, mark, show

_MOST = 3  # objects of an image whose copies are drawn; more would hide each other


def draw_objects(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw the boxes that both views show, and their copies at first and at last."""
    heads = ("query view", "target view, at first", "target view, at last")
    sheet = Sheet(
        f"{name}: objects by their boxes, and the boxes moved",
        (
            "Equal colours are one object. Thin: copies of its box that may become "
            "its positive, when the training begins and when it ends; dotted: copies "
            f"that overlap the box too little. Of {_MOST} objects at most.",
        ),
        len(labels),
        len(heads),
    )
    for ax, head in zip(sheet.axes[0], heads, strict=True):
        ax.set_title(head)
    for i, axes in enumerate(sheet.axes):
        own = np.flatnonzero(found["images"] == i)
        for ax, view in zip(axes, (views[0], views[1], views[1]), strict=True):
            show(ax, view[i])
        counts = []
        for stage, ax in enumerate(axes[1:]):
            valid = found["valid"][stage][own]
            counts.append(f"{valid.sum()} of {valid.size} copies may be taken")
            for color, m in zip(COLORS, own[:_MOST], strict=False):
                copies = found["copies"][stage][m]
                for box, fits in zip(copies, found["valid"][stage][m], strict=True):
                    mark(ax, box, color, 0.7, style="-" if fits else ":")
        for number, m in enumerate(own):
            color = COLORS[number % len(COLORS)]
            for ax, v in zip(axes, (0, 1, 1), strict=True):
                mark(ax, found["objects"][m, v], color, 2.0)
        sheet.below(axes[0], labels[i], f"{len(own)} objects in both views")
        for ax, text in zip(axes[1:], counts, strict=True):
            sheet.below(ax, text)
    return sheet
