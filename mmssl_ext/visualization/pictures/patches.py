"""DetCo's picture: whole images, sets of shuffled patches, and how they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mmssl_ext.visualization.curves import BLUE, FAINT, INK

from .sheet import LINE, Sheet, show, signed, tiled

_HEADS = {
    "global query": INK,
    "global key": BLUE,
    "local query": BLUE,
    "local key": INK,
    "cosine": BLUE,
}


def draw_patches(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw the views and patch sets, and the cosines of local query and global key."""
    sheet = Sheet(
        f"{name}: whole images and shuffled patches",
        (
            "Four views of each image, cut independently; the patches of a set stand "
            "in the shuffled order in which they are fed. Bars: cosine of local query "
            "(all its patches together) and global key, both in blue, at each stage of "
            "the network.",
        ),
        len(labels),
        len(_HEADS),
    )
    for ax, (head, color) in zip(sheet.axes[0], _HEADS.items(), strict=True):
        ax.set_title(head, color=color)
    lowest = found["cross"].min()
    lowest = 0.0 if lowest >= 0 else lowest - 0.15  # room for its label
    for i, label in enumerate(labels):
        *axes, last = sheet.axes[i]
        for view, ax in zip(views, axes, strict=True):
            show(ax, as_image(view[i]))
        sheet.below(axes[0], label)
        _draw_bars(last, found["cross"][i], found["levels"], lowest)
        last.set(box_aspect=axes[0].get_aspect(), anchor="N")
    return sheet


def as_image(view: np.ndarray) -> np.ndarray:
    """A view as it is, and patches (P x h x w x 3) in rows, as one image."""
    if view.ndim == 3:
        return view
    return tiled(view, int(np.ceil(np.sqrt(len(view)))), max(view.shape[2] // 12, 1))


def _draw_bars(
    ax: Axes, values: np.ndarray, names: Sequence[str], lowest: float
) -> None:
    bars = ax.bar(range(len(values)), values, width=0.66, color=BLUE)
    ax.bar_label(
        bars, [signed(value) for value in values], color=INK, padding=1, size=7.5
    )
    ax.set_ylim(lowest, 1.15)
    ax.set_xticks(range(len(values)), labels=names)
    ax.set_yticks([0, 0.5, 1])
    ax.axhline(0, color=INK, lw=0.7)
    ax.grid(axis="y", color=LINE, lw=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelcolor=FAINT, labelsize=7.5)
