"""Un-Mix's picture: mixed images, and the share that each target has in their loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .sheet import COLORS, Sheet, frame, mark, show

_HEADS = ("query view", "its partner", "mixture")


def draw_mixture(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw images, the partners that they are mixed with, and the mixtures."""
    share, box = found["share"], found["box"]
    kind = "blended pixel by pixel" if box is None else "put together by a box"
    sheet = Sheet(
        f"{name}: images {kind}",
        (
            "A mixture must find the targets (other views, not shown) of both of its "
            "images, and each counts in the loss as much as it has of the pixels. "
            "Every colour stands for one image.",
        ),
        len(labels),
        len(_HEADS),
    )
    for ax, head in zip(sheet.axes[0], _HEADS, strict=True):
        ax.set_title(head)
    query, (height, width) = views[0], views[0].shape[1:3]
    for i, axes in enumerate(sheet.axes):
        partner = len(labels) - 1 - i
        own, other = (COLORS[j % len(COLORS)] for j in (i, partner))
        shown = (
            (query[i], f"image {i + 1}", own),
            (query[partner], f"image {partner + 1}", other),
            (
                found["mixture"][i],
                f"{share:.2f} x target {i + 1} and "
                f"{1 - share:.2f} x target {partner + 1}",
                own if share >= 0.5 else other,
            ),
        )
        for ax, (pixels, caption, color) in zip(axes, shown, strict=True):
            show(ax, pixels)
            frame(ax, color, 2.2)
            sheet.below(ax, caption, color=color, loc="center")
        if box is not None:
            top, left, rows, columns = box
            corners = left, top, left + columns, top + rows
            sizes = width, height, width, height
            place = [x / size for x, size in zip(corners, sizes, strict=True)]
            mark(axes[2], place, other, 2.2)
    return sheet
