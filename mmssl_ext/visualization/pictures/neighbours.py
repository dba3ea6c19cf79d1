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
    sets = {"": features}
    if subject.pooled_untrained is not None:
        sets = {"": features, "untrained": subject.pooled_untrained}
    queries = _queries(classes, total, -(-subject.num // len(sets)))
    captions = [
        f"Of {total:,} images, those with the highest cosine of globally pooled "
        "backbone features; the cosine stands below."
    ]
    if classes:
        alike = [f"{_alike(rows, classes, count):.0%}" for rows in sets.values()]
        beside = f" ({alike[1]} with the untrained network)" if alike[1:] else ""
        captions.append(
            "Frames: the query's class (green, solid) or another (orange, dashed). "
            f"Over all {total:,} images, {alike[0]} of the {count} nearest are of the "
            f"same class{beside}."
        )
    # An empty column keeps the query apart.
    ratios = [1, 0.15] + count * [1]
    sheet = subject.sheet(TITLE, captions, len(queries) * len(sets), count + 2, ratios)
    sheet.axes[0, 0].set_title("query")
    sheet.axes[0, 2 + (count - 1) // 2].set_title("neighbours, the nearest first")
    found = [nearest(rows, queries, count) for rows in sets.values()]
    shown = {*queries, *np.concatenate([f for f, _ in found]).ravel().tolist()}
    thumbs = subject.thumbs([indices[i] for i in sorted(shown)])
    for i, query in enumerate(queries):
        for j, (name, (others, cosine)) in enumerate(zip(sets, found, strict=True)):
            axes = sheet.axes[i * len(sets) + j]
            if not name:
                show(axes[0], thumbs[indices[query]])
                own = [shortened(classes[query], 24)] if classes else []
                sheet.below(axes[0], subject.file(indices[query], 16), *own, color=INK)
            else:
                axes[0].text(0.5, 0.5, name, ha="center", va="center", color=INK)
            for ax, other, value in zip(axes[2:], others[i], cosine[i], strict=True):
                show(ax, thumbs[indices[other]])
                _tell(sheet, ax, classes, query, other, value)
    return sheet


def _tell(
    sheet: Sheet, ax: Any, classes: Any, query: int, other: int, cosine: float
) -> None:
    """Frame a neighbour by whether it is of the query's class, and write below it."""
    color, own = INK, []
    if classes:
        same = classes[other] == classes[query]
        color, own = GREEN if same else ORANGE, [shortened(classes[other], 24)]
        frame(ax, color, 2.2, "solid" if same else (0, (3, 1.5)))
    sheet.below(ax, signed(cosine, 3), *own, color=color)


def _alike(features: Tensor, classes: Sequence[str], count: int) -> float:
    """Share of the nearest neighbours of all images that are of their class."""
    names = np.array(classes)
    found = nearest(features, range(len(names)), count)[0]
    return (names[found] == names[:, None]).mean()


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
