"""What a method does to its views, drawn from ``model(inputs, mode="inspect")``.

Images are arrays H x W x 3 of uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.models.layers import geometry
from mmssl_ext.visualization.curves import BLUE, FAINT, GREEN, INK, ORANGE

from .learned_features import Matches, chance_of, distances, true_places
from .sheet import LINE, MARGIN, TOP, WIDTH, Box, Sheet

# One colour per image, dark enough for text.
_COLORS = (BLUE, ORANGE, GREEN, "#aa4499", "#6e5494", "#8a6d00")
# Dark enough for white paper at both ends, and told apart in grey as well.
_COSINES = LinearSegmentedColormap.from_list(
    "cosines", matplotlib.colormaps["plasma"](np.linspace(0.0, 0.78, 64))
)


def cell_centres(grid: tuple[int, int], box: Box) -> np.ndarray:
    """Centres (x, y) of the h x w cells that fill a box, row by row: h*w x 2."""
    centres = geometry.cell_centres(*grid).numpy()
    return centres * (box.width, box.height) + (box.x, box.y)


def match_lines(
    match: np.ndarray, grid: tuple[int, int], query: Box, key: Box
) -> np.ndarray:
    """Lines from each query cell to its key cell ``match`` (h*w): h*w x 2 x 2.

    Of line a, [a, 0] and [a, 1] are the (x, y) of its two ends.
    """
    return np.stack([cell_centres(grid, query), cell_centres(grid, key)[match]], 1)


def arcs(lines: np.ndarray, bend: float = 0.04) -> np.ndarray:
    """Bend lines (n x 2 x 2) upwards, that one on another can be told apart.

    Returns:
        Points of the arcs from the same beginnings to the same ends, n x 33 x 2. Their
        middle is ``bend`` times the length above that of the line.
    """
    t = np.linspace(0, 1, 33)[:, None]
    start, end = lines[:, :1], lines[:, 1:]
    rise = 4 * t * (1 - t) * bend * np.linalg.norm(end - start, axis=2, keepdims=True)
    return start + t * (end - start) - rise * np.array([0, 1])


def most_similar(similarity: np.ndarray) -> np.ndarray:
    """Which third of the pairs, rounded up, is the most similar; the best is last."""
    return np.argsort(similarity, kind="stable")[-len(similarity) // 3 :]


def agreement(match: np.ndarray, grid: tuple[int, int], boxes: Tensor) -> str:
    """How many matches of a pair of views are at the true place, in words.

    Args:
        match: Key cell of each query cell, h*w.
        grid: Cells (h, w) of both views.
        boxes: Where the views were cut, 2 x 4.
    """
    true = true_places(grid, boxes)
    seen = np.flatnonzero(((true >= 0) & (true <= 1)).all(1))
    if not len(seen):
        return "the key view shows none of these cells"
    shown = Matches(seen, match[seen], np.ones(len(seen)))
    right = (distances(shown, (grid, grid), boxes) <= 1).sum()
    chance = chance_of(shown, (grid, grid), boxes)
    return (
        f"{right} of the {len(seen)} cells that the key view shows too are matched "
        f"within one cell of their true place (by chance {chance:.0%})"
    )


def region_mask(
    region: Sequence[int], size: tuple[int, int], grid: tuple[int, int]
) -> np.ndarray:
    """Which cells (h x w) of an image of a size (H, W) lie in a region of pixels.

    Args:
        region: Top, left, height and width, in whole cells.
        size: Of the image.
        grid: Cells (h, w) of the feature map.
    """
    starts, sides = np.array(region[:2]), np.array(region[2:])
    rows, columns = (
        slice(first * cells // pixels, last * cells // pixels)
        for first, last, cells, pixels in zip(
            starts, starts + sides, grid, size, strict=True
        )
    )
    mask = np.zeros(grid, bool)
    mask[rows, columns] = True
    return mask


def patch_boxes(count: int, box: Box, gap: float = 5) -> list[Box]:
    """Boxes of so many patches, in rows, that fill a box up to the gaps."""
    side = int(np.ceil(np.sqrt(count)))
    width, height = ((s - (side - 1) * gap) / side for s in (box.width, box.height))
    return [
        Box(box.x + column * (width + gap), box.y + row * (height + gap), width, height)
        for row, column in (divmod(i, side) for i in range(count))
    ]


def matched_cells(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw which cell of the key view each cell of the query view picks."""
    grid, match, similarity = found["grid"], found["match"], found["similarity"]
    if views[0].shape != views[1].shape:
        raise UserValueError(
            "Query and key view differ in size, hence in their cells; let the pipeline "
            "make both of one size."
        )
    side, gap = 240, 200
    left = (WIDTH - 2 * side - gap) // 2
    height = round(side * views[0].shape[1] / views[0].shape[2])
    boxes = found.get("boxes")  # N x V x 4
    pitch = height + (46 if boxes is None else 62)
    best = [most_similar(row) for row in similarity]
    sheet = Sheet(
        TOP + pitch * len(labels),
        f"{name}: cells of two views that look alike",
        (
            f"Each of the {grid[0]} x {grid[1]} cells of a view picks the cell of the "
            "other view with the most similar features.",
            f"Drawn: the {len(best[0])} most similar pairs of each image.",
        ),
    )
    for x, head in ((left, "query view"), (left + side + gap, "key view")):
        sheet.head(x + side / 2, head)
    shown = [row[chosen] for row, chosen in zip(similarity, best, strict=True)]
    span = Normalize(np.min(shown), np.max(shown))
    color_bar(sheet, Box(WIDTH - MARGIN - 180, 40, 180, 8), span)
    for i, label in enumerate(labels):
        y = TOP + i * pitch
        query, key = (Box(x, y, side, height) for x in (left, left + side + gap))
        for view, box in zip(views, (query, key), strict=True):
            sheet.image(view[i], box)
            sheet.grid(grid, box)
        lines = match_lines(match[i], grid, query, key)
        colors = _COSINES(span(shown[i]))
        sheet.lines(arcs(lines[best[i]]), "white", 4.4, 0.9)
        sheet.lines(arcs(lines[best[i]]), colors, 2.4)
        for ends in (lines[best[i], 0], lines[best[i], 1]):
            sheet.dots(ends, colors)
        used, cells = len(np.unique(match[i])), len(match[i])
        same = (match[i] == np.arange(cells)).sum()
        text = (
            f"{label}: {used} of {cells} key cells picked, {same} of {cells} pairs at "
            f"the same place; mean cosine {similarity[i].mean():.2f}"
        )
        sheet.text(left, y + height + 15, text, color=FAINT)
        if boxes is not None and boxes[i].isfinite().all():
            text = agreement(match[i], grid, boxes[i])
            sheet.text(left, y + height + 31, text, color=FAINT)
    return sheet


def color_bar(
    sheet: Sheet, box: Box, span: Normalize, colors: Colormap = _COSINES
) -> None:
    """Draw the colours of a range of cosines, with its ends below."""
    ramp = colors(np.linspace(0, 1, 256)[None])[..., :3]
    sheet.image(np.rint(ramp * 255).astype(np.uint8), box)
    y, right = box.y + box.height + 10, box.x + box.width
    low, high = (f"{end:.2f}".replace("-", "−") for end in (span.vmin, span.vmax))
    sheet.text(box.x, y, low, color=FAINT)
    sheet.text(box.x + box.width / 2, y, "cosine", color=FAINT, ha="center")
    sheet.text(right, y, high, color=FAINT, ha="right")


def swapped_regions(
    name: str, found: Mapping[str, Any], views: Sequence[Any], labels: Sequence[str]
) -> Sheet:
    """Draw the mixed images, and which of their cells are pooled for which key."""
    order, grid, region = found["order"], found["grid"], found["region"]
    if len(order) < 2:
        raise UserValueError(
            "A region is swapped between two images; give a folder with two or more, "
            "and --num 2 or more."
        )
    query, mixed = views[0], found["mixed"]
    size = query.shape[1:3]
    boxes, pitch = _columns(5, 14, size[0] / size[1], len(labels))
    sheet = Sheet(
        TOP + pitch * len(labels) + 2,
        f"{name}: a rectangle swapped between images",
        (
            "A mixed image shows two images. Each part is pooled from its own cells of "
            "the feature map and must find the key",
            "(another view, not shown) of the image that it comes from. Every colour "
            "stands for one image.",
        ),
    )
    heads = ("query view", "its partner", "mixed image", "canvas cells", "paste cells")
    for box, head in zip(boxes[0], heads, strict=True):
        sheet.head(box.x + box.width / 2, head)
    inside = region_mask(region, size, grid)
    scale = boxes[0][0].width / size[1]
    top, left, *sides = (scale * value for value in region)
    for i, partner in enumerate(order):
        own, other = (_COLORS[j % len(_COLORS)] for j in (i, partner))
        row = boxes[i]
        gray = np.asarray(Image.fromarray(mixed[i]).convert("L").convert("RGB"))
        shown = (query[i], query[partner], mixed[i], gray, gray)
        for box, pixels in zip(row, shown, strict=True):
            sheet.image(pixels, box)
        for box, color in zip(row, (own, other, own), strict=False):
            sheet.frame(box, color)
        hole = Box(row[2].x + left, row[2].y + top, sides[1], sides[0])
        sheet.frame(hole, other)
        sheet.frame(hole, "white", 1.5, inset=3)
        for box, mask, color in ((row[3], ~inside, own), (row[4], inside, other)):
            sheet.tint(mask, box, color)
            sheet.grid(grid, box, 0.8)
            sheet.frame(box, LINE, 1)
        captions = (
            (f"image {i + 1}", own),
            (f"image {partner + 1}", other),
            (f"{partner + 1} pasted into {i + 1}", FAINT),
            (f"{(~inside).sum()} cells: find key {i + 1}", own),
            (f"{inside.sum()} cells: find key {partner + 1}", other),
        )
        for box, (caption, color) in zip(row, captions, strict=True):
            x, y = box.x + box.width / 2, box.y + box.height + 15
            sheet.text(x, y, caption, color=color, ha="center")
    return sheet


def _columns(
    count: int, gap: float, ratio: float, rows: int
) -> tuple[list[list[Box]], float]:
    """Boxes by row and column, height ``ratio`` times width, and the rows' pitch."""
    width = (WIDTH - 2 * MARGIN - (count - 1) * gap) // count
    height = round(width * ratio)
    pitch = height + 40
    boxes = [
        [
            Box(MARGIN + column * (width + gap), TOP + row * pitch, width, height)
            for column in range(count)
        ]
        for row in range(rows)
    ]
    return boxes, pitch


def images_and_patches(
    name: str,
    found: Mapping[str, Any],
    views: Sequence[Any],
    labels: Sequence[str],
) -> Sheet:
    """Draw the views and patch sets, and the cosines of local query and global key."""
    cross = found["cross"]
    size = views[0].shape[1:3]
    boxes, pitch = _columns(5, 18, size[0] / size[1], len(labels))
    sheet = Sheet(
        TOP + pitch * len(labels) + 2,
        f"{name}: whole images and shuffled patches",
        (
            "Four views of each image, cut independently; the patches of a set stand "
            "in the shuffled order in which they are fed.",
            "Bars: cosine of local query (all its patches together) and global key, "
            "both in blue, at each stage of the network.",
        ),
    )
    heads = ("global query", "global key", "local query", "local key", "cosine")
    colors = (INK, BLUE, BLUE, INK, BLUE)
    for box, head, color in zip(boxes[0], heads, colors, strict=True):
        sheet.head(box.x + box.width / 2, head, color)
    low = min(0.0, cross.min() * 1.1)
    for i, label in enumerate(labels):
        row = boxes[i]
        for view, box in zip(views, row[:4], strict=True):
            if view.ndim == 4:
                sheet.image(view[i], box)
                continue
            for patch, place in zip(
                view[i], patch_boxes(view.shape[1], box), strict=True
            ):
                sheet.image(patch, place)
        _bars(sheet, row[4], cross[i], found["levels"], low)
        sheet.text(row[0].x, row[0].y + row[0].height + 15, label, color=FAINT)
    return sheet


def _bars(
    sheet: Sheet, box: Box, values: np.ndarray, names: Sequence[str], low: float
) -> None:
    left, right = box.x + 22, box.x + box.width
    unit = (box.height - 8) / (1 - low)  # pixels per 1
    zero = box.y + 8 + unit
    for level in (0.0, 0.5, 1.0):
        y = zero - level * unit
        line = np.array([[(left, y), (right, y)]])
        sheet.lines(line, LINE if level else INK, 1)
        sheet.text(left - 5, y, f"{level:g}", 10, color=FAINT, ha="right")
    pitch = (right - left) / len(values)
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        x, width = left + (i + 0.5) * pitch, 0.66 * pitch
        bar = Rectangle((x - width / 2, zero), width, -value * unit, color=BLUE, lw=0)
        sheet.axes.add_patch(bar)
        y = zero - max(value, 0) * unit - 9
        label = f"{value:.2f}".replace("-", "−")
        sheet.text(x, y, label, ha="center")
        sheet.text(x, box.y + box.height + 15, name, color=FAINT, ha="center")


DRAWINGS: dict[str, Callable[..., Sheet]] = {
    "mixed": swapped_regions,
    "cross": images_and_patches,
    "match": matched_cells,
}
"""By a key of what :meth:`inspect` returns; of several terms the first is drawn."""


def to_images(view: Tensor, mean: Tensor, std: Tensor) -> np.ndarray:
    """Turn a normalised view ... x 3 x H x W into uint8 ... x H x W x 3.

    A view that was left in uint8, as methods get them in training, stays as it is.
    """
    pixels = view
    if view.is_floating_point():
        pixels = (view * std + mean).round().clamp(0, 255).byte()
    return pixels.movedim(-3, -1).cpu().numpy()
