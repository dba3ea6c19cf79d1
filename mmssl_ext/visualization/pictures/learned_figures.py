"""Sheets of what a network has learned, drawn from arrays; images are H x W x 3 uint8.

Every function returns the sheet and its caption for other media.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, ListedColormap, Normalize

from mmssl_ext.visualization.curves import BLUE, FAINT, GREEN, INK, ORANGE, PINK

from .learned_features import Matches
from .method_figures import cell_centres, color_bar
from .sheet import LINE, MARGIN, TOP, WIDTH, Box, Sheet, shortened

_INNER = WIDTH - 2 * MARGIN
_SIMILAR: Colormap = matplotlib.colormaps["viridis"]
# Dark enough for white paper at its bright end.
_STRENGTH: Colormap = ListedColormap(
    matplotlib.colormaps["plasma"](np.linspace(0.0, 0.78, 64))
)
_CLASSES = (
    *(BLUE, ORANGE, GREEN, PINK, "#e69f00"),
    *("#56b4e9", "#6e5494", "#8a6d00", "#24292f", "#a0522d"),
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
OTHER = "other"  # classes beyond the tenth

_SCALE = 1.0  # the report holds six of these sheets

Drawn = tuple[Sheet, str]


def _sheet(height: float, title: str, captions: Sequence[str]) -> Sheet:
    return Sheet(height, title, captions, _SCALE)


def fitted(pixels: np.ndarray, box: Box) -> Box:
    """The largest box with the shape of an image, in the middle of another box."""
    height, width = pixels.shape[:2]
    scale = min(box.width / width, box.height / height)
    w, h = width * scale, height * scale
    return Box(box.x + (box.width - w) / 2, box.y + (box.height - h) / 2, w, h)


def _side(images: Sequence[np.ndarray], width: float) -> float:
    """Height of boxes of a width such that no image is cut and none very tall."""
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    return width * min(max(tallest, 0.5), 1.4)


def pca_sheet(
    name: str,
    images: Sequence[np.ndarray],
    maps: Mapping[str, Sequence[np.ndarray]],
    shares: Mapping[str, np.ndarray],
    labels: Sequence[str],
    cells: Mapping[str, float],
) -> Drawn:
    """Draw images with maps of their cells' colours below, a row per stage.

    Args:
        name: Of the method.
        images: The images as the network saw them.
        maps: Of every stage, colours h x w x 3 of each image.
        shares: Of every stage, the shares of the variance of the three components.
        labels: Names of the images.
        cells: Of every stage, the width of a cell in pixels.
    """
    columns, left, gap = min(len(images), 6), 74, 8
    width = min(200.0, (_INNER - left - (columns - 1) * gap) / columns)
    height = _side(images, width)
    lines = -(-len(images) // columns)
    pitch = (height + gap) * (1 + len(maps)) + 26
    parts = [
        f"{stage} {' + '.join(f'{share:.0%}'[:-1] for share in shares[stage])} %"
        for stage in maps
    ]
    variance = "Share of the variance: " + "; ".join(parts) + "."
    sheet = _sheet(
        TOP - 22 + pitch * lines,
        f"{name}: what the feature maps tell apart",
        (
            "Red, green and blue are the first three principal components of the "
            "cells' features, fitted on all of these images.",
            variance,
        ),
    )
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        line, column = divmod(i, columns)
        x, y = MARGIN + left + column * (width + gap), TOP - 22 + line * pitch
        box = fitted(image, Box(x, y, width, height))
        sheet.image(image, box)
        for row, stage in enumerate(maps, 1):
            place = box._replace(y=box.y + row * (height + gap))
            sheet.image(maps[stage][i], place, smooth=False)
        below = y + (height + gap) * (1 + len(maps)) + 4
        text = shortened(label, max(8, int(width / 5.6)))
        sheet.text(x + width / 2, below, text, 10, color=FAINT, ha="center")
        if column == 0:
            heads = [("image", "")]
            heads += [(stage, f"{cells[stage]:g} px cells") for stage in maps]
            for row, (head, size) in enumerate(heads):
                middle = y + row * (height + gap) + height / 2
                for j, word in enumerate(head.split(", ")):
                    sheet.text(MARGIN, middle - 8 + 14 * j, word)
                after = middle - 8 + 14 * len(head.split(", "))
                sheet.text(MARGIN, after, size, 10, color=FAINT)
    caption = (
        "Feature maps as colours: the first three principal components of the "
        f"cells' features, fitted on all images shown. {variance} Good: objects stand "
        "out from their surroundings, and like parts have like colours in all images; "
        "bad: one flat colour, or colours that only follow the place in the image."
    )
    return sheet, caption


def similarity_sheet(
    name: str,
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    rows: Sequence[tuple[Sequence[int], tuple[int, int], Sequence[np.ndarray]]],
) -> Drawn:
    """Draw how similar one marked cell is to all cells of its and other images.

    Args:
        name: Of the method.
        images: The images as the network saw them.
        labels: Names of the images.
        rows: For each query the numbers of the images shown, its own first; the
            marked cell (row, column); and the cosines h x w of each image.
    """
    columns, gap = max(len(row[0]) for row in rows), 10
    width = min(200.0, (_INNER - (columns - 1) * gap) / columns)
    height = _side(images, width)
    pitch = 2 * height + 5 + 40
    sheet = _sheet(
        TOP - 14 + pitch * len(rows),
        f"{name}: where is what the marked cell shows?",
        (
            "Below each image: cosine of each cell's feature and that of the cell "
            "framed in the first image of its row.",
            "One scale for all maps.",
        ),
    )
    values = np.concatenate([m.ravel() for row in rows for m in row[2]])
    span = Normalize(min(0.0, float(values.min())), 1.0)
    color_bar(sheet, Box(WIDTH - MARGIN - 180, 58, 180, 8), span, _SIMILAR)
    for line, (numbers, (row, column), maps) in enumerate(rows):
        for place, (number, cosine) in enumerate(zip(numbers, maps, strict=True)):
            x, y = MARGIN + place * (width + gap), TOP - 6 + line * pitch
            box = fitted(images[number], Box(x, y, width, height))
            sheet.image(images[number], box)
            below = box._replace(y=box.y + height + 5)
            colors = np.rint(_SIMILAR(span(cosine))[..., :3] * 255).astype(np.uint8)
            sheet.image(colors, below, smooth=False)
            if place == 0:
                for area in (box, below):
                    h, w = area.height / cosine.shape[0], area.width / cosine.shape[1]
                    cell = Box(area.x + column * w, area.y + row * h, w, h)
                    outer = Box(cell.x - 2, cell.y - 2, w + 4, h + 4)
                    sheet.frame(outer, "white", 4)
                    sheet.frame(outer, ORANGE, 2.5, inset=0.75)
            text = shortened(labels[number], max(8, int(width / 6)))
            end = y + 2 * height + 5
            sheet.text(x, end + 11, text, 10, color=INK if place == 0 else FAINT)
    caption = (
        "Cosine of every cell's feature and that of the framed cell, on one scale. "
        "Good: high on the same object or part, also in other images, and low "
        "elsewhere; bad: high everywhere, or only around the framed cell."
    )
    return sheet, caption


def matches_sheet(
    name: str,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    grids: Sequence[tuple[tuple[int, int], tuple[int, int]]],
    matches: Sequence[Matches],
    errors: Sequence[np.ndarray | None],
    labels: Sequence[str],
    chance: float | None,
    shown: int = 16,
) -> Drawn:
    """Draw pairs of views and the cells that choose each other.

    Args:
        name: Of the method.
        pairs: Two views of each image.
        grids: Cells (h, w) of both.
        matches: Of each pair.
        errors: How far the matches are from the true place, in cells; None where the
            crops are not known.
        labels: Names of the images.
        chance: Share of cells that would be within one cell by chance.
        shown: Lines per pair at most, those of the most similar cells.
    """
    gap, between = 84, 36
    width = (_INNER - between - 2 * gap) / 4
    height = max(_side([v for pair in pairs for v in pair], width), 40)
    pitch = height + 62
    lines = -(-len(pairs) // 2)
    known = [e for e in errors if e is not None]
    drawn_errors = [e[:shown] for e in known]
    counts = [sum(int((e <= 1).sum()) for e in known), sum(len(e) for e in known)]
    text = "The crops of these views are not known, so neither is the true place."
    if counts[1]:
        text = (
            f"Within one cell of the true place: {counts[0]} of all {counts[1]} "
            f"matches ({counts[0] / counts[1]:.0%}"
        )
        text += ")." if chance is None else f"; by chance {chance:.0%})."
    sheet = _sheet(
        TOP - 14 + pitch * lines,
        f"{name}: the same place in two views",
        (
            f"Cells that are each other's most similar one; of each pair of views the "
            f"{shown} most similar. Dashed, hollow: not the true place.",
            text,
        ),
    )
    values = np.concatenate([m.cosine[:shown] for m in matches])
    span = Normalize(values.min(initial=1.0), values.max(initial=-1.0))
    color_bar(sheet, Box(WIDTH - MARGIN - 180, 58, 180, 8), span, _STRENGTH)
    for i, (pair, label) in enumerate(zip(pairs, labels, strict=True)):
        line, column = divmod(i, 2)
        x = MARGIN + column * (2 * width + gap + between)
        y = TOP - 2 + line * pitch
        boxes = [
            fitted(view, Box(x + k * (width + gap), y, width, height))
            for k, view in enumerate(pair)
        ]
        for view, box, grid in zip(pair, boxes, grids[i], strict=True):
            sheet.image(view, box)
            sheet.grid(grid, box, 0.25)
        found, error = matches[i], errors[i]
        ends = [
            cell_centres(grid, box)[cells[:shown]]
            for grid, cells, box in zip(
                grids[i], (found.first, found.second), boxes, strict=True
            )
        ]
        drawn = np.stack(ends, 1)  # m x 2 x 2
        colors = _STRENGTH(span(found.cosine[:shown]))
        right = np.ones(len(drawn), bool) if error is None else error[:shown] <= 1
        for chosen, style in ((right, "solid"), (~right, (0, (2.5, 1.5)))):
            if chosen.any():
                if style == "solid":
                    sheet.lines(drawn[chosen], "white", 3.4, 0.8)
                sheet.lines(drawn[chosen], colors[chosen], 1.8, style=style)
                for k in range(2):
                    sheet.dots(drawn[chosen, k], colors[chosen], style == "solid", 8)
        text = shortened(label)
        sheet.text(x, y + height + 13, text, color=INK)
        text = f"{len(found.first)} mutual matches, {len(drawn)} drawn"
        if error is not None:
            text += f"; {int(right.sum())} of these at the true place"
        sheet.text(x, y + height + 29, text, 10.5, color=FAINT)
    caption = (
        "Cells of two views of an image that are each other's most similar one in the "
        "backbone's features; the strongest are drawn."
    )
    if counts[1]:
        top = sum(int((e <= 1).sum()) for e in drawn_errors)
        number = sum(len(e) for e in drawn_errors)
        caption += (
            f" {top} of the {number} drawn, and {counts[0]} of all {counts[1]} "
            "matches, are within one cell of the true place"
        )
        caption += "." if chance is None else f"; chance would give {chance:.0%}."
    caption += (
        " Good: most drawn matches are true and follow the object through crop and "
        "flip; bad: hardly more than by chance."
    )
    return sheet, caption


def neighbours_sheet(
    name: str,
    thumbs: Mapping[int, np.ndarray],
    queries: Sequence[int],
    found: np.ndarray,
    cosine: np.ndarray,
    labels: Sequence[str],
    classes: Sequence[str] | None,
    total: int,
    agreement: float | None,
) -> Drawn:
    """Draw queries with their nearest other images.

    Args:
        name: Of the method.
        thumbs: Images of one size by number.
        queries: Numbers of the queries.
        found: Numbers of the neighbours of each, q x k.
        cosine: Of each pair, q x k.
        labels: Names of all images by number.
        classes: Class of every image by number, where known.
        total: Number of images searched.
        agreement: Share of neighbours of the same class over all images as queries.
    """
    count, gap, extra = found.shape[1], 8, 22
    width = min(150.0, (_INNER - extra - count * gap) / (count + 1))
    pitch = width + (50 if classes else 36)
    lines = [
        f"Of {total:,} images, those with the highest cosine of globally pooled "
        "backbone features; the cosine stands below."
    ]
    if classes:
        text = "Frames: the query's class (green, solid) or another (orange, dashed)."
        if agreement is not None:
            text += (
                f" Over all {total:,} images, {agreement:.0%} of the {count} nearest "
                "are of the same class."
            )
        lines.append(text)
    sheet = _sheet(TOP + pitch * len(queries), f"{name}: nearest neighbours", lines)
    sheet.head(MARGIN + width / 2, "query")
    middle = MARGIN + width + extra + (count * (width + gap) - gap) / 2
    sheet.head(middle, "neighbours, the nearest first")
    letters = int(width / 5.7)
    for line, query in enumerate(queries):
        y = TOP + line * pitch
        box = Box(MARGIN, y, width, width)
        sheet.image(thumbs[query], box)
        text = shortened(labels[query], letters)
        sheet.text(MARGIN, y + width + 12, text, 10, color=FAINT)
        if classes:
            text = shortened(classes[query], letters)
            sheet.text(MARGIN, y + width + 27, text, 10, color=INK)
        for place, (number, value) in enumerate(
            zip(found[line].tolist(), cosine[line].tolist(), strict=True)
        ):
            x = MARGIN + width + extra + place * (width + gap)
            box = Box(x, y, width, width)
            sheet.image(thumbs[number], box)
            sheet.text(x, y + width + 12, f"{value:.3f}".replace("-", "−"), 10)
            if classes:
                same = classes[number] == classes[query]
                color = GREEN if same else ORANGE
                sheet.frame(box, color, 4, style="solid" if same else (0, (3, 1.5)))
                text = shortened(classes[number], letters)
                sheet.text(x, y + width + 27, text, 10, color=color)
    caption = (
        f"Nearest neighbours among {total:,} images by the cosine of globally pooled "
        "backbone features. Good: the same kind of object in other colours, places "
        "and sizes; bad: images that share no more than background or colour."
    )
    if agreement is not None:
        caption += (
            f" {agreement:.0%} of the {count} nearest of every image are of its class."
        )
    return sheet, caption


def embedding_sheet(
    name: str,
    points: np.ndarray,
    classes: Sequence[str] | None,
    thumbs: Mapping[int, np.ndarray],
    how: str,
    what: str,
) -> Drawn:
    """Draw points in the plane, coloured by class, some with their image.

    Args:
        name: Of the method.
        points: n x 2.
        classes: Of each point, or None.
        thumbs: Images by number of the point, of one size.
        how: Method and setting that gave the points.
        what: What the points are, e.g. "features of 500 images".
    """
    plot = Box(MARGIN, TOP - 22, 640 if classes else _INNER, 560)
    sheet = _sheet(
        plot.y + plot.height + 20,
        f"{name}: which images are alike",
        (
            f"{how} of {what}. Neighbours are near each other in the features too;",
            "axes, large distances and the sizes of groups mean nothing.",
        ),
    )
    margin = 26  # pixels, half a picture
    low, high = points.min(0), points.max(0)
    room = np.array([plot.width - 2 * margin, plot.height - 2 * margin])
    places = (points - low) / np.maximum(high - low, 1e-12) * room
    places += np.array([plot.x + margin, plot.y + margin])
    sheet.frame(plot, LINE, 1)
    names = grouped(classes) if classes else [""] * len(points)
    order = legend_order(names)
    looks = {
        group: (FAINT, ".")
        if group == OTHER
        else (_CLASSES[i % len(_CLASSES)], _MARKERS[i % len(_MARKERS)])
        for i, group in enumerate(order)
    }
    size = 7.0 if len(points) <= 400 else 5.5
    for group in order:
        chosen = np.array([n == group for n in names])
        color, marker = looks[group]
        sheet.marks(places[chosen], color, marker, size)
    for number, box in beside(places, list(thumbs), plot).items():
        color = looks[names[number]][0]
        middle = (box.x + box.width / 2, box.y + box.height / 2)
        sheet.lines(np.array([[places[number], middle]]), color, 1.2)
        sheet.image(thumbs[number], box, above=True)
        sheet.frame(box, color, 2, above=True)
    if classes:
        x, y = plot.x + plot.width + 18, plot.y + 8
        sheet.text(x, y, "class (images)", fontweight="bold")
        for i, group in enumerate(order):
            line = y + 24 + 22 * i
            color, marker = looks[group]
            sheet.marks(np.array([[x + 6, line]]), color, marker, 8)
            text = f"{shortened(group, 20)} ({names.count(group)})"
            sheet.text(x + 18, line, text, 11)
    caption = (
        f"{how} of {what}"
        + (", coloured by class. " if classes else ". ")
        + "Good: images of a kind form groups, with few strangers in them; bad: one "
        "cloud in which the kinds are mixed, or groups by colour or brightness alone. "
        "Axes and large distances mean nothing."
    )
    return sheet, caption


def grouped(classes: Sequence[str], most: int = 10) -> list[str]:
    """Name the classes beyond ``most`` "other"; the frequent ones keep their names."""
    names = sorted(set(classes), key=lambda n: (-classes.count(n), n))
    kept = set(names if len(names) <= most else names[: most - 1])
    return [name if name in kept else OTHER for name in classes]


def legend_order(names: Sequence[str]) -> list[str]:
    """The names in order, "other" last."""
    return sorted(set(names), key=lambda name: (name == OTHER, name))


def spread_out(points: np.ndarray, count: int) -> list[int]:
    """Numbers of points far from each other: the next is the farthest from all."""
    chosen = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    left = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(left.argmax()))
        left = np.minimum(left, ((points - points[chosen[-1]]) ** 2).sum(1))
    return chosen


def beside(
    places: np.ndarray, numbers: Sequence[int], plot: Box, side: float = 40
) -> dict[int, Box]:
    """Boxes near some points that hide few points and no other box, by number.

    Args:
        places: All points, n x 2, in pixels.
        numbers: Those that get a box.
        plot: Where the boxes may lie.
        side: Of a box.
    """
    angles = np.arange(16) / 16 * 2 * np.pi
    ways = np.stack([np.cos(angles), np.sin(angles)], 1)
    steps = np.concatenate([ways * r * side for r in (0.85, 1.2, 1.6, 2.2)])
    found: dict[int, Box] = {}
    taken = np.empty((0, 2))
    for number in numbers:
        centre = places[number] + steps  # candidates, nearest first
        apart = np.abs(places[None] - centre[:, None]).max(2)  # candidates x n
        hidden = (apart < side / 2 + 4).sum(1)
        clash = (np.abs(taken[None] - centre[:, None]).max(2) < side + 4).sum(1)
        low = np.array([plot.x, plot.y]) + side / 2 + 2
        high = np.array([plot.x + plot.width, plot.y + plot.height]) - side / 2 - 2
        outside = ((centre < low) | (centre > high)).any(1)
        best = centre[np.argmin(hidden + 1e3 * clash + 1e6 * outside)]
        taken = np.concatenate([taken, best[None]])
        found[number] = Box(best[0] - side / 2, best[1] - side / 2, side, side)
    return found


def filters_sheet(name: str, filters: Mapping[str, np.ndarray]) -> Drawn:
    """Draw the filters of the first convolution, sets side by side.

    Args:
        name: Of the method.
        filters: By title, n x h x w x 3; in the order of their norm.
    """
    most = max(len(f) for f in filters.values())
    _, rows, columns, _ = next(iter(filters.values())).shape
    between, gap = 40, 6
    width = (_INNER - (len(filters) - 1) * between) / len(filters)
    across = 8 if len(filters) > 1 or most <= 32 else 16
    side = min(72.0, (width - (across - 1) * gap) / across)
    lines = -(-most // across)
    used = side * across + gap * (across - 1)
    sheet = _sheet(
        TOP + lines * (side + gap) + 12,
        f"{name}: filters of the first convolution",
        (
            f"{most} filters of {rows} × {columns} px on red, green and blue, the "
            "strongest first, on one scale:",
            "middle grey is 0; full and no brightness of a colour are plus and minus "
            "the largest weight.",
        ),
    )
    for place, (title, weights) in enumerate(filters.items()):
        left = MARGIN + place * (width + between)
        top = float(np.abs(weights).max())
        sheet.head(left + used / 2, f"{title} (largest weight {top:.2g})")
        order = np.argsort(-np.sqrt((weights**2).sum((1, 2, 3))), kind="stable")
        colors = filter_colors(weights)
        for i, number in enumerate(order):
            line, column = divmod(i, across)
            box = Box(
                left + column * (side + gap), TOP + line * (side + gap), side, side
            )
            sheet.image(colors[number], box, smooth=False)
            sheet.frame(box, LINE, 1)
    caption = (
        f"The {most} filters of the first convolution as colours, on one scale. Good: "
        "smooth edges, stripes and colour blobs of many directions; bad: noise, as "
        "before training, or many filters that are flat."
    )
    return sheet, caption


def filter_colors(weights: np.ndarray) -> np.ndarray:
    """Weights n x h x w x 3 as uint8: 0 is middle grey, one scale for all."""
    top = max(float(np.abs(weights).max()), 1e-12)
    return np.rint(127.5 + 127.5 * weights / top).clip(0, 255).astype(np.uint8)
