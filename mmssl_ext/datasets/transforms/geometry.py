"""Crops, resizing and flips of one image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from mmssl_ext.registry import TRANSFORMS

from .placing import ViewBox, in_units, move_box
from .random import (
    AnyImage,
    RandomSwitch,
    RandomTransform,
    check_choice,
    check_range,
    check_size,
    image_size,
    on_array,
    uniform,
)

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels

# A strip of 1 x 30,000 pixels resized to a short side of 256 would have 2e9 pixels.
_MAX_ASPECT = 20


def resize(
    img: AnyImage, size: tuple[int, int], box: Box, interpolation: str = "bilinear"
) -> AnyImage:
    """Cut ``box`` and resize it to (height, width), with antialiasing.

    Cut first, as torchvision does: else the filter would also read the pixels beyond
    the edges. The pixels are PIL's up to 1.
    """
    return on_array(img, _resize, size, box, interpolation)


def _resize(
    img: np.ndarray, size: tuple[int, int], box: Box, interpolation: str
) -> np.ndarray:
    left, upper, right, lower = box
    crop = np.ascontiguousarray(img[upper:lower, left:right])
    # The batch axis comes before the permutation: torch has to recognise channels_last
    # by the strides, or it copies to planes and back.
    batch = torch.from_numpy(crop)[None].permute(0, 3, 1, 2)  # 1 x C x h x w
    batch = F.interpolate(batch, size, mode=interpolation, antialias=True)
    return np.ascontiguousarray(batch[0].permute(1, 2, 0).numpy())


def _center_box(size: tuple[int, int], width: int, height: int) -> Box:
    left = round((size[0] - width) / 2)
    upper = round((size[1] - height) / 2)
    return left, upper, left + width, upper + height


@TRANSFORMS.register_module()
class RandomResizedCrop(RandomTransform):
    """Crop of random area and aspect ratio, resized to a fixed size.

    The crop is drawn as in Szegedy et al. (arXiv 1409.4842, section 6), with
    torchvision's conventions: the area is uniform in ``scale``, the logarithm of the
    aspect ratio uniform in ``ratio``; after ten draws that do not fit, the largest
    central crop within ``ratio``. Resized with antialiasing.

    Args:
        size: Output side, or (height, width), in pixels.
        scale: Range of the crop's area as a fraction of the image's.
        ratio: Range of width / height of the crop.
        interpolation: ``"bilinear"`` or ``"bicubic"``.
    """

    keeps_box = True

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "bilinear",
    ) -> None:
        name = "RandomResizedCrop: interpolation"
        check_choice(name, interpolation, "bilinear", "bicubic")
        self.interpolation = interpolation
        self.size = check_size("RandomResizedCrop", size)
        self.scale = check_range("RandomResizedCrop", "scale", scale, 1e-6, 1)
        self.ratio = check_range("RandomResizedCrop", "ratio", ratio, 1e-3, 1e3)
        self._log_ratio = math.log(self.ratio[0]), math.log(self.ratio[1])

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Box:
        """Draw the crop's box."""
        width, height = size
        for _ in range(10):
            area = width * height * uniform(rng, *self.scale)
            aspect = math.exp(uniform(rng, *self._log_ratio))
            w = round(math.sqrt(area * aspect))
            h = round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left = int(rng.random() * (width - w + 1))
                upper = int(rng.random() * (height - h + 1))
                return left, upper, left + w, upper + h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            w = max(1, round(height * self.ratio[1]))
        left, upper = (width - w) // 2, (height - h) // 2
        return left, upper, left + w, upper + h

    def apply(self, img: AnyImage, params: Box) -> AnyImage:
        """Cut and resize."""
        return resize(img, self.size, params, self.interpolation)

    def locate(self, params: Box, size: tuple[int, int]) -> ViewBox:
        """Return the crop."""
        return in_units(params, size)


@TRANSFORMS.register_module()
class RandomFlip(RandomSwitch):
    """Horizontal flip with probability ``prob``."""

    device_name = "RandomFlip"
    keeps_box = True

    def locate(self, params: bool, size: tuple[int, int]) -> ViewBox:
        """Return the whole image, mirrored."""
        return 1.0, 0.0, 0.0, 1.0

    @staticmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Mirror the image left to right."""
        # OpenCV leaves out the axis of a single band.
        return cv2.flip(img, 1).reshape(img.shape) if values[0] else img


@TRANSFORMS.register_module()
class ResizeShort:
    """Resize such that the short side has ``size`` pixels; bilinear with antialiasing.

    Of an image that is more than 20 times as long as wide, only the central part of
    that shape is kept, which bounds the memory.
    """

    keeps_box = True

    def __init__(self, size: int) -> None:
        self.size = check_size("ResizeShort", size)[0]

    def __call__(self, results: dict) -> dict:
        """Replace ``results["img"]``."""
        img = results["img"]
        width, height = image_size(img)
        limit = _MAX_ASPECT * min(width, height)
        w, h = min(width, limit), min(height, limit)
        box = _center_box((width, height), w, h)
        # Truncated, not rounded, as torchvision does.
        target = [int(self.size * side / min(w, h)) for side in (h, w)]
        results["img"] = resize(img, (target[0], target[1]), box)
        if (w, h) != (width, height):
            move_box(results, in_units(box, (width, height)))
        return results


@TRANSFORMS.register_module()
class CenterCrop:
    """Central crop of ``size`` pixels, black where the image is smaller."""

    keeps_box = True

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = check_size("CenterCrop", size)

    def __call__(self, results: dict) -> dict:
        """Replace ``results["img"]``."""
        img = results["img"]
        height, width = self.size
        if image_size(img) != (width, height):
            box = _center_box(image_size(img), width, height)
            results["img"] = on_array(img, _cut, box)
            move_box(results, in_units(box, image_size(img)))
        return results


def _cut(img: np.ndarray, box: Box) -> np.ndarray:
    left, upper, right, lower = box
    height, width = img.shape[:2]
    inner = img[max(upper, 0) : lower, max(left, 0) : right]
    rows = max(-upper, 0), max(lower - height, 0)
    columns = max(-left, 0), max(right - width, 0)
    return np.pad(inner, (rows, columns, (0, 0)))
