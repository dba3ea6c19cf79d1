"""Boxes, masks and label maps on an image, and below it what their colours mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl_ext.files import read_json
from mmssl_ext.text import shown

from .page import PictureError, open_picture

#: Of a run's folder, and what in it names the pictures.
FOLDER, INDEX = "predictions", "index.json"

Colour = tuple[int, int, int]

#: Told apart by most eyes and on most images, the first ones best.
COLOURS: tuple[Colour, ...] = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
    *((213, 94, 0), (204, 121, 167), (0, 114, 178), (160, 80, 220)),
    *((140, 200, 60), (255, 130, 130), (90, 220, 200), (150, 110, 60)),
    *((255, 190, 220), (120, 120, 255), (190, 190, 190), (110, 60, 20)),
    *((0, 90, 60), (255, 215, 150), (200, 40, 60), (60, 60, 60)),
)
_COVER = 0.5  # share of the colour where a mask or label lies
_MOST = 12  # classes that a legend names


def colours_of(
    labels: Iterable[int], count: int, palette: Sequence[Sequence[int]] | None = None
) -> dict[int, Colour]:
    """Colour of each label: the data set's own, else one of :data:`COLOURS`.

    Args:
        labels: Those on the picture.
        count: Classes of the data set. With more than there are colours, a class has
            the colour of its place among those on the picture.
        palette: The data set's own colours, one for each class.
    """
    found = sorted({int(label) for label in labels if 0 <= label < count})
    if palette is not None and len(palette) >= count:
        return {label: (*map(int, palette[label]),) for label in found}  # type: ignore[misc]
    places = found if count <= len(COLOURS) else range(len(found))
    return {
        label: COLOURS[place % len(COLOURS)]
        for label, place in zip(found, places, strict=True)
    }


def draw_instances(
    image: np.ndarray, found: Any, colours: Mapping[int, Colour]
) -> np.ndarray:
    """Draw masks, boxes and scores.

    Args:
        image: H x W x 3, uint8, RGB.
        found: ``InstanceData`` with ``labels`` (n) and any of ``bboxes`` (n x 4),
            ``masks`` (n x H x W) and ``scores`` (n).
        colours: Of the labels; instances of others are left out.

    Returns:
        Another image of that shape. A score, in percent, stands at the upper left of
        its box, unless it would cover another one.
    """
    labels = [int(label) for label in found.labels]
    scores = found.scores.tolist() if "scores" in found else [1.0] * len(labels)
    order = sorted(range(len(labels)), key=lambda i: scores[i])
    order = [i for i in order if labels[i] in colours]
    canvas = image.copy()
    if "masks" in found:
        for i in order:
            _cover(canvas, found.masks[i].numpy(), colours[labels[i]])
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    width = max(2, round(min(canvas.shape[:2]) / 150))
    boxes = found.bboxes.tolist() if "bboxes" in found else []
    if boxes:
        for i in order:
            left, upper, right, lower = boxes[i]
            corners = (left, upper, max(left, right), max(upper, lower))
            pen.rectangle(corners, outline=colours[labels[i]], width=width)
    if boxes and "scores" in found:
        _write_scores(pen, [(boxes[i], scores[i]) for i in reversed(order)], width)
    return np.asarray(picture)


def draw_map(
    image: np.ndarray, labels: np.ndarray, colours: Mapping[int, Colour]
) -> np.ndarray:
    """Lay the colours of a label map, H x W, over an image of uint8 RGB."""
    canvas = image.copy()
    for label, colour in colours.items():
        _cover(canvas, labels == label, colour)
    return canvas


def add_legends(
    panels: Sequence[np.ndarray],
    shown_in: Sequence[Iterable[int]],
    names: Sequence[str],
    colours: Mapping[int, Colour],
) -> list[np.ndarray]:
    """Panels with a white strip of one height below, which names their classes.

    Args:
        panels: H x W x 3, uint8, RGB.
        shown_in: The labels on each of them.
        names: Of all classes.
        colours: Of the labels.
    """
    strips = [
        _legend(
            panel.shape[1],
            [
                (shown(names[x]), colours[x])
                for x in sorted(set(labels))
                if x in colours
            ],
        )
        for panel, labels in zip(panels, shown_in, strict=True)
    ]
    height = max(len(strip) for strip in strips)
    below = (
        np.pad(s, ((0, height - len(s)), (0, 0), (0, 0)), constant_values=255)
        for s in strips
    )
    return [np.concatenate(both) for both in zip(panels, below, strict=True)]


def read_panels(folder: Path, legends: bool = True) -> dict[str, list[Image.Image]]:
    """Return the sides of every picture in ``folder`` by the name of its image.

    Pictures that cannot be read are left out, and legends without ``legends``.
    """
    found = {}
    for entry in read_json(folder / INDEX).get("pictures", ()):
        try:
            picture = open_picture(folder, entry["file"]).convert("RGB")
        except PictureError:
            continue
        count, gap = entry["panels"], entry["gap"]
        width = (picture.width - gap * (count - 1)) // count
        height = picture.height - (0 if legends else entry.get("legend", 0))
        starts = [i * (width + gap) for i in range(count)]
        boxes = [(x, 0, x + width, height) for x in starts]
        found[entry["image"]] = [picture.crop(box) for box in boxes]
    return found


def _cover(canvas: np.ndarray, where: np.ndarray, colour: Colour) -> None:
    """Tint a region of an image and draw its outline, in place."""
    where = np.ascontiguousarray(where, np.uint8)
    region = where.astype(bool)
    tinted = (1 - _COVER) * canvas[region] + _COVER * np.array(colour)
    canvas[region] = np.rint(tinted).astype(np.uint8)
    outline, _ = cv2.findContours(where, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outline, -1, colour, 1)


def _write_scores(
    pen: ImageDraw.ImageDraw, found: Sequence[tuple[Sequence[float], float]], gap: int
) -> None:
    font, taken = _font(16), []  # type: ignore[var-annotated]
    for box, score in found:
        text = f"{100 * score:.0f}"
        place = max(0.0, box[0]) + gap + 1, max(0.0, box[1]) + gap
        left, upper, right, lower = pen.textbbox(place, text, font, stroke_width=1)
        if any(
            left < b[2] and b[0] < right and upper < b[3] and b[1] < lower
            for b in taken
        ):
            continue
        taken.append((left, upper, right, lower))
        pen.text(place, text, "white", font, stroke_width=1, stroke_fill="black")


def _legend(width: int, entries: Sequence[tuple[str, Colour]]) -> np.ndarray:
    """Lines of coloured squares with names, as many as they need."""
    font, line, square = _font(15), 21, 12
    room = width - square - 12
    texts = [_shortened(name, room, font) for name, _ in entries[:_MOST]]
    rest = len(entries) - _MOST
    places, x, y = [], 4, 3
    for text in texts:
        taken = square + 15 + int(font.getlength(text))
        if x > 4 and x + taken - 10 > width:
            x, y = 4, y + line
        places.append((x, y))
        x += taken
    picture = Image.new("RGB", (width, y + line), "white")
    pen = ImageDraw.Draw(picture)
    colours = [colour for _, colour in entries[:_MOST]]
    for (left, upper), text, colour in zip(places, texts, colours, strict=True):
        corners = (left, upper + 2, left + square, upper + 2 + square)
        pen.rectangle(corners, fill=colour, outline="#555555")
        pen.text((left + square + 5, upper), text, "#24292f", font)
    if rest > 0:
        pen.text((min(x, width - 70), y), f"+ {rest} more", "#6e7781", font)
    return np.asarray(picture)


def _shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """As much of a text as fits, with dots where something is left out."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size)
