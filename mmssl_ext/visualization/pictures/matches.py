"""Cells of two views of an image that choose each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from mmengine.dataset import default_collate
from torch import Tensor

from mmssl_ext.datasets.transforms.geometry import RandomResizedCrop
from mmssl_ext.datasets.transforms.views import MakeViews
from mmssl_ext.errors import ConfigError
from mmssl_ext.models.layers.geometry import cell_centres, to_image, to_view
from mmssl_ext.visualization.curves import INK

from .images import to_decoded
from .sheet import STRENGTH, Sheet, draw_cells, show
from .subject import Subject, feature_maps, unit

TITLE = "The same place in two views"
JUDGE = (
    "Good: most drawn matches are true and follow the object through crop and flip; "
    "bad: hardly more than by chance."
)
_LINES = 16  # per pair at most

Grids = tuple[tuple[int, int], tuple[int, int]]


class Matches(NamedTuple):
    """Cells of two maps that choose each other, m pairs, the most similar first."""

    first: np.ndarray  # cell of the first map, counted row by row
    second: np.ndarray
    cosine: np.ndarray  # of their features


def draw(subject: Subject) -> Sheet:
    """Draw pairs of views and the most similar of the cells that choose each other.

    Raises:
        ConfigError: The pipeline makes no two views of whole images.
    """
    items = subject.items(subject.spread(subject.num), _enlarged(subject))
    pairs = [_two_views(subject, item) for item in items.values()]
    maps = [_last_maps(subject, views) for views, _ in pairs]
    found = [mutual_matches(*two) for two in maps]
    grids: list[Grids] = [(a.shape[:2], b.shape[:2]) for a, b in maps]
    placed = [
        distances(m.first, m.second, grid, boxes)
        for m, grid, (_, boxes) in zip(found, grids, pairs, strict=True)
    ]
    far, near = (np.concatenate(values) for values in zip(*placed, strict=True))
    text = "The crops of these views are not known, so neither is the true place."
    if total := int(np.isfinite(far).sum()):
        right = int((far <= 1).sum())
        text = (
            f"Within one cell of the true place: {right} of all {total} matches "
            f"({right / total:.0%}; by chance {near[np.isfinite(far)].mean():.0%})."
        )
    sheet = subject.sheet(
        TITLE,
        (
            f"Cells that are each other's most similar one; of each pair of views the "
            f"{_LINES} most similar. Dashed, hollow: not the true place. {text}",
        ),
        -(-len(pairs) // 2),
        7,  # of two pairs, with room for the lines and between the pairs
        [1, 0.4, 1, 0.15, 1, 0.4, 1],
    )
    best = [Matches(*(values[:_LINES] for values in m)) for m in found]
    drawn = np.concatenate([m.cosine for m in best])
    ends = drawn.min(initial=1.0), drawn.max(initial=-1.0)
    span = sheet.color_bar(*ends, STRENGTH)
    for i, index in enumerate(items):
        axes = sheet.axes[i // 2, 4 * (i % 2) :][[0, 2]].tolist()
        gaps = placed[i][0][:_LINES]
        views = [subject.pixels(view) for view in pairs[i][0]]
        draw_pair(sheet, axes, views, grids[i], best[i], span, ~(gaps > 1))
        text = f"{len(found[i].first)} matches, {len(gaps)} drawn"
        if np.isfinite(gaps).any():
            text += f"; {(gaps <= 1).sum()} at the true place"
        sheet.below(axes[0], subject.file(index), color=INK)
        sheet.below(axes[1], text)
    return sheet


def draw_pair(
    sheet: Sheet,
    axes: Sequence[Axes],
    views: Sequence[np.ndarray],
    grids: Grids,
    matches: Matches,
    span: Normalize,
    right: np.ndarray | None = None,
    bend: float = 0,
) -> None:
    """Draw two views and lines between matched cells, those not ``right`` dashed."""
    right = np.ones(len(matches.first), bool) if right is None else right
    colors = STRENGTH(span(matches.cosine))
    ends = []
    for ax, view, grid, cells in zip(axes, views, grids, matches, strict=False):
        show(ax, view)
        draw_cells(ax, grid, 0.3)
        ends.append(cell_centres(*grid).numpy()[cells])
    for line, color, solid in zip(zip(*ends, strict=True), colors, right, strict=True):
        sheet.connect(axes, line, color, solid, bend)


def _two_views(subject: Subject, item: Any) -> tuple[list[Tensor], Tensor]:
    """Two views as they were decoded, and where they were cut, 2 x 4."""
    preprocessor = subject.model.data_preprocessor
    views = preprocessor(default_collate([item]))["inputs"]
    if not isinstance(views, (list, tuple)) or len(views) < 2 or views[1].ndim != 4:
        raise ConfigError(
            "Matches need two views of whole images; the pipeline of the config makes "
            "none."
        )
    boxes = item.get("boxes", torch.full((2, 4), torch.nan))[:2]
    return [to_decoded(view, preprocessor)[0] for view in views[:2]], boxes


def _last_maps(subject: Subject, views: Sequence[Tensor]) -> list[np.ndarray]:
    return [list(feature_maps(subject.model, view).values())[-1] for view in views]


def _enlarged(subject: Subject) -> list[Any]:
    """The pipeline of training, whose first views become larger."""
    factor = subject.size / subject.crop
    pipeline = [copy.copy(transform) for transform in subject.pipeline]
    for transform in pipeline:
        if isinstance(transform, MakeViews):
            first = [[_larger(s, factor) for s in v] for v in transform.pipelines[:2]]
            transform.pipelines = first + transform.pipelines[2:]
    return pipeline


def _larger(step: Any, factor: float) -> Any:
    if isinstance(step, RandomResizedCrop):
        step = copy.copy(step)
        height, width = step.size
        step.size = round(height * factor), round(width * factor)
    return step


def mutual_matches(first: np.ndarray, second: np.ndarray) -> Matches:
    """Cells of two maps, h x w x C each, that are each other's most similar one."""
    a, b = (unit(cells).reshape(-1, cells.shape[-1]) for cells in (first, second))
    table = a @ b.T
    there, back = table.argmax(1), table.argmax(0)
    chosen = np.flatnonzero(back[there] == np.arange(len(a)))
    values = table[chosen, there[chosen]]
    order = np.argsort(-values, kind="stable")
    return Matches(chosen[order], there[chosen][order], values[order])


def true_places(grid: tuple[int, int], boxes: Tensor) -> np.ndarray:
    """Where the centres of a view's h x w cells are in another view of the image.

    ``boxes`` say where the two were cut, 2 x 4. The places (u, v), h*w x 2, are in
    units of the second view, which shows those in [0, 1].
    """
    first, second = boxes.double()[:, None]
    return to_view(to_image(cell_centres(*grid), first), second)[0].numpy()


def distances(
    first: np.ndarray, second: np.ndarray, grids: Grids, boxes: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """How far matches are from the true places, in cells of the second view.

    Matched are the m cells ``first`` and ``second`` of two grids (h, w), cut at
    ``boxes``, 2 x 4. Returned are of each the larger of the distances along x and y,
    and the share of all cells within one cell of the true place; NaN if not known.
    """
    true = true_places(grids[0], boxes)[first]
    every = np.abs((cell_centres(*grids[1]).numpy() - true[:, None]) * grids[1][::-1])
    table = every.max(axis=2)  # m x h*w
    return table[np.arange(len(table)), second], (table <= 1).mean(axis=1)
