"""Object proposals of one image: a method, a filter, and suppression in random order.

The filter and its numbers are CCOP's (arXiv 2111.13651): sides between 1:3 and 3:1, a
box of more than 20 x 20 pixels by its area, suppression at IoU 0.5 in the order of
random scores, at most 50 boxes. A score says nothing but in which order boxes are
taken; it follows from the seed and from the image's name alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import cv2
import numpy as np

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.text import closest, shown

from .superpixels import superpixel_boxes


@dataclass(frozen=True)
class Settings:
    """How proposals are made.

    Attributes:
        method: Key of :data:`METHODS`.
        max_boxes: Most boxes of an image.
        min_side: Square root of the area that a box must exceed, in pixels of the
            image.
        max_aspect: Longer side over shorter side, at most.
        iou: Of two boxes that overlap by more, one is dropped.
        long_side: The method sees a copy of the image with this longer side where the
            image is larger; None for the image as it is.
        seed: Of the scores.

    Raises:
        UserValueError: A value is out of its range.
    """

    method: str = "superpixels"
    max_boxes: int = 50
    min_side: float = 20.0
    max_aspect: float = 3.0
    iou: float = 0.5
    long_side: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "max_boxes": (1, 10_000),
            "min_side": (0, 100_000),
            "max_aspect": (1, 100_000),
            "iou": (0, 1),
            "long_side": (32, 100_000),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is None and name == "long_side":
                continue
            whole = name in ("max_boxes", "long_side", "seed")
            kinds = (int,) if whole else (int, float)
            right = isinstance(value, kinds) and not isinstance(value, bool)
            if not (right and low <= value <= high):
                raise UserValueError(
                    f"{name.replace('_', '-')} must be a {'whole ' * whole}number in "
                    f"{low} to {high}, but is {value!r}."
                )
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise UserValueError(
                f"method must be {' or '.join(METHODS)}, but is {self.method!r}."
            )

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """Settings by name.

        Raises:
            UserValueError: There is no such setting, or a value is out of its range.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise UserValueError(
                    f"There is no setting '{shown(name)}' of proposals."
                    f"{closest(name, names)} There are {', '.join(names)}."
                )
        return cls(**given)

    def check(self) -> None:
        """Refuse a method whose package is missing.

        Raises:
            UserError: It is.
        """
        if self.method == "selective-search":
            _search()

    def told(self) -> dict[str, Any]:
        """The settings by name, for the file."""
        return asdict(self)


def find_boxes(
    img: np.ndarray, name: str, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of an image and their scores, in the order of falling scores.

    Args:
        img: Upright RGB, uint8, H x W x 3.
        name: Of the image in its data set, which tells its scores from another's.
        settings: How.

    Returns:
        n x 4 whole pixels, left, upper, right, lower; and n scores in [0, 1).
    """
    height, width = img.shape[:2]
    copy, scale = img, 1.0
    if settings.long_side is not None and max(height, width) > settings.long_side:
        scale = settings.long_side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        copy = cv2.resize(img, size, interpolation=cv2.INTER_AREA)
    back = np.array([width / copy.shape[1], height / copy.shape[0]] * 2)
    boxes = np.rint(METHODS[settings.method](copy) * back)
    boxes = np.clip(boxes, 0, [width, height] * 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    kept = np.sqrt(sides.prod(1)) > settings.min_side
    kept &= sides.max(1) <= settings.max_aspect * sides.min(1)
    boxes = np.unique(boxes[kept], axis=0)
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
    seeds = settings.seed, int.from_bytes(key, "big")
    # Six digits, as they stand in the file.
    scores = np.floor(np.random.default_rng(seeds).random(len(boxes)) * 1e6) / 1e6
    order = np.argsort(-scores, kind="stable")
    chosen = suppress(boxes[order], settings.iou, settings.max_boxes)
    return boxes[order][chosen], scores[order][chosen]


def suppress(boxes: np.ndarray, iou: float, most: int) -> np.ndarray:
    """Numbers of boxes in their order, none of which overlaps an earlier one by more.

    Args:
        boxes: n x 4.
        iou: Overlap up to which both stay.
        most: End after so many.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alive = np.ones(len(boxes), bool)
    chosen: list[int] = []
    while alive.any() and len(chosen) < most:
        i = int(alive.argmax())
        chosen.append(i)
        lower = np.maximum(boxes[i, :2], boxes[:, :2])
        upper = np.minimum(boxes[i, 2:], boxes[:, 2:])
        inner = (upper - lower).clip(0).prod(1)
        alive &= inner <= iou * (areas + areas[i] - inner)
        alive[i] = False
    return np.array(chosen, np.int64)


def _search() -> Any:
    """OpenCV's module of selective search."""
    found = getattr(getattr(cv2, "ximgproc", None), "segmentation", None)
    if found is None or not hasattr(found, "createSelectiveSearchSegmentation"):
        raise UserError(
            "Selective search is part of opencv-contrib-python-headless, which takes "
            "the place of the installed OpenCV: run `pip uninstall -y opencv-python "
            "opencv-python-headless` and `pip install opencv-contrib-python-headless`, "
            "or take --method superpixels."
        )
    return found


def selective_search_boxes(img: np.ndarray) -> np.ndarray:
    """Boxes by OpenCV's selective search in its fast mode, n x 4."""
    search = _search().createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(img[..., ::-1]))
    search.switchToSelectiveSearchFast()
    found = np.asarray(search.process(), np.float64).reshape(-1, 4)
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], 1)


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "superpixels": superpixel_boxes,
    "selective-search": selective_search_boxes,
}
