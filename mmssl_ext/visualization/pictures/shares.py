"""Which images a target stands for: the picture of ASCL, ReSSL and mean shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .sheet import COLORS, Sheet, frame, show

MEMORY = 64  # images
_OTHERS = 6


def draw_shares(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw images and the others that take the largest part in their targets."""
    shares, target = found["shares"], views[found["view"]]  # N x N, N x H x W x 3
    total = len(labels)
    rows = [i * total // found["shown"] for i in range(min(found["shown"], total))]
    columns = min(_OTHERS, total - 1)
    sheet = Sheet(
        f"{name}: the images that a target stands for",
        (
            "A prediction is pulled towards its target, and also towards other images "
            "that resemble it, in these shares. In training they come from the "
            f"method's memory, here from {total:,} images.",
        ),
        len(rows),
        columns + 2,
        [1, 0.15, *columns * [1]],
    )
    sheet.axes[0, 0].set_title("target view")
    sheet.axes[0, 2 + (columns - 1) // 2].set_title("others, the largest share first")
    for i, axes in zip(rows, sheet.axes, strict=True):
        show(axes[0], target[i])
        frame(axes[0], COLORS[0], 2.2)
        sheet.below(axes[0], labels[i], f"itself {shares[i, i]:.1%}")
        others = np.where(np.arange(total) == i, -np.inf, shares[i])
        order = np.argsort(-others, kind="stable")[:columns]
        for ax, j in zip(axes[2:], order, strict=True):
            if shares[i, j] > 0:
                show(ax, target[j])
                sheet.below(ax, f"{shares[i, j]:.1%}")
        rest = 1 - shares[i, i] - shares[i, order].sum()
        if rest > 0.0005:
            last = f"{shares[i, order[-1]]:.1%}"
            sheet.below(axes[-1], last, f"all others {rest:.1%}")
    return sheet
