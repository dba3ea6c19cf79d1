"""Where in the image a view was cut.

A box is (x0, y0, x1, y1): the places of the view's upper left and lower right corner in
the image that all views of it are cut from, x in units of that image's width and y of
its height. Corners are edges, so a crop ``width`` pixels wide spans left / W to
(left + width) / W. A mirrored view has x0 > x1.

``MakeViews`` starts every view with the whole image in ``results["view_box"]``, each
transform that moves pixels calls :func:`move_box`, and ``MakeViews`` collects what came
out. It believes a transform only where this says that the box is right after it, by
``keeps_box = True``: of any other nobody knows what it does to the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ViewBox = tuple[float, float, float, float]  # x0, y0, x1, y1

WHOLE: ViewBox = (0.0, 0.0, 1.0, 1.0)
UNKNOWN: ViewBox = (float("nan"),) * 4

#: Libraries whose transforms configs can name, and their operations on colours.
LIBRARIES = ("mmcv", "mmpretrain", "torchvision")
COLOURS = {
    *("AutoContrast", "Brightness", "ColorJitter", "ColorTransform", "Contrast"),
    *("Equalize", "GaussianBlur", "Grayscale", "Invert", "Lighting", "Posterize"),
    *("RandomAdjustSharpness", "RandomAutocontrast", "RandomEqualize"),
    *("RandomGrayscale", "RandomInvert", "RandomPosterize", "RandomSolarize"),
    *("Sharpness", "Solarize", "SolarizeAdd"),
}


def part_of(outer: ViewBox, part: ViewBox) -> ViewBox:
    """The box of a part of a view, given relative to the view, in the image."""
    x0, y0, x1, y1 = outer
    width, height = x1 - x0, y1 - y0
    left, upper, right, lower = part
    return (
        x0 + left * width,
        y0 + upper * height,
        x0 + right * width,
        y0 + lower * height,
    )


def in_units(pixels: Sequence[float], size: tuple[int, int]) -> ViewBox:
    """Left, upper, right, lower in pixels of an image of ``size`` = (width, height)."""
    left, upper, right, lower = pixels
    width, height = size
    return left / width, upper / height, right / width, lower / height


def move_box(results: dict, part: ViewBox) -> None:
    """Say that ``results["img"]`` now is a part of what it was.

    Without ``MakeViews`` there is no box, and nothing to be said.

    Args:
        results: Of a transform.
        part: The place of the new image in the one before, in units of that; for
            a mirrored one x0 > x1, and (1, 0, 0, 1) if it is mirrored as a whole.
    """
    if "view_box" in results:
        results["view_box"] = part_of(results["view_box"], part)


def keeps_box(transform: Any) -> bool:
    """Whether ``results["view_box"]`` is right after a transform.

    It says so by ``keeps_box``, as an attribute of its class, itself or the function
    that it is. A class that changes by a method of its own what another one does to the
    pixels has to say it again. Of torchvision, mmpretrain and mmcv the colours'
    operations are known.
    """
    own = getattr(transform, "__dict__", {})
    for names in (own, *(vars(cls) for cls in type(transform).__mro__)):
        if "keeps_box" in names:
            return bool(names["keeps_box"])
        if not {"apply", "change", "__call__"}.isdisjoint(names):
            break
    inner = type(getattr(transform, "t", transform))  # "t": torchvision's, wrapped
    library = inner.__module__.partition(".")[0]
    return library in LIBRARIES and inner.__name__ in COLOURS
