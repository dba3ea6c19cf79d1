"""The nearest neighbours of some images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl_ext.errors import ConfigError
from mmssl_ext.visualization.curves import GREEN, INK, ORANGE

from .sheet import Sheet, frame, shortened, show, signed
from .subject import Subject, members_of, spread

TITLE = "Nearest neighbours"
JUDGE = (
    "Good: the same kind of object in other colours, places and sizes; bad: images "
    "that share no more than background or colour."
)
_NEIGHBOURS = 6


def draw(subject: Subject) -> Sheet:
    """Draw queries with their nearest other images.

    Raises:
        ConfigError: There are too few images.
    """
    indices, features = subject.pooled
    total = len(indices)
    if total < 3:
        raise ConfigError(f"Neighbours need at least 3 images, but there are {total}.")
    count = min(_NEIGHBOURS, total - 1)
    classes = [subject.classes[i] for i in indices] if subject.classes else None
    queries = _queries(classes, total, subject.num)
    captions = [
        f"Of {total:,} images, those with the highest cosine of globally pooled "
        "backbone features; the cosine stands below."
    ]
    if classes:
        names = np.array(classes)
        alike = (
            names[nearest(features, range(total), count)[0]] == names[:, None]
        ).mean()
        captions.append(
            "Frames: the query's class (green, solid) or another (orange, dashed). "
            f"Over all {total:,} images, {alike:.0%} of the {count} nearest are of the "
            "same class."
        )
    # An empty column keeps the query apart.
    ratios = [1, 0.15] + count * [1]
    sheet = subject.sheet(TITLE, captions, len(queries), count + 2, ratios)
    sheet.axes[0, 0].set_title("query")
    sheet.axes[0, 2 + (count - 1) // 2].set_title("neighbours, the nearest first")
    found, cosine = nearest(features, queries, count)
    thumbs = subject.thumbs([indices[i] for i in {*queries, *found.ravel().tolist()}])
    for query, others, values, axes in zip(
        queries, found, cosine, sheet.axes, strict=True
    ):
        show(axes[0], thumbs[indices[query]])
        own = [shortened(classes[query], 24)] if classes else []
        sheet.below(axes[0], subject.file(indices[query], 16), *own, color=INK)
        for ax, other, value in zip(axes[2:], others, values, strict=True):
            show(ax, thumbs[indices[other]])
            color, own = INK, []
            if classes:
                same = classes[other] == classes[query]
                color, own = GREEN if same else ORANGE, [shortened(classes[other], 24)]
                frame(ax, color, 2.2, "solid" if same else (0, (3, 1.5)))
            sheet.below(ax, signed(value, 3), *own, color=color)
    return sheet


def _queries(classes: Sequence[str] | None, total: int, count: int) -> list[int]:
    """Rows to show the neighbours of: of as many classes as can be, else spread."""
    members = members_of(classes or ())
    if len(members) >= min(count, total):
        groups = spread(list(members.values()), count)
        return [group[len(group) // 2] for group in groups]
    return spread(range(total), count)


def nearest(features: Tensor, queries: Sequence[int], count: int) -> tuple[Any, Any]:
    """Numbers and cosines, q x count, of the other rows most similar to q of them.

    ``features`` are unit rows, n x C; at most n - 1 are found.
    """
    table = features[list(queries)] @ features.T
    table[range(len(queries)), list(queries)] = -torch.inf
    values, found = table.topk(min(count, len(features) - 1), dim=1)
    return found.numpy(), values.numpy()
