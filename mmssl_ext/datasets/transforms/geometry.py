"""Crops, resizing and flips of PIL images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmssl_ext.registry import TRANSFORMS

from .random import RandomTransform, check_prob, check_range, check_size, uniform

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels

# A strip of 1 x 30,000 pixels resized to a short side of 256 would have 2e9 pixels.
_MAX_ASPECT = 20


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
    central crop within ``ratio``. Bilinear with antialiasing.

    Args:
        size: Output side, or (height, width), in pixels.
        scale: Range of the crop's area as a fraction of the image's.
        ratio: Range of width / height of the crop.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.2, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ) -> None:
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

    def apply(self, img: Image.Image, params: Box) -> Image.Image:
        """Cut and resize without a copy of the crop in between."""
        height, width = self.size
        return img.resize((width, height), Image.Resampling.BILINEAR, box=params)


@TRANSFORMS.register_module()
class RandomFlip(RandomTransform):
    """Horizontal flip with probability ``prob``."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = check_prob("RandomFlip", prob)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> bool | None:
        """Draw True (flip) or None."""
        return True if rng.random() < self.prob else None

    def apply(self, img: Image.Image, params: bool) -> Image.Image:
        """Mirror the image left to right."""
        return img.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@TRANSFORMS.register_module()
class ResizeShort:
    """Resize such that the short side has ``size`` pixels; bilinear with antialiasing.

    Of an image that is more than 20 times as long as wide, only the central part of
    that shape is kept, which bounds the memory.
    """

    def __init__(self, size: int) -> None:
        self.size = check_size("ResizeShort", size)[0]

    def __call__(self, results: dict) -> dict:
        """Replace ``results["img"]``."""
        img = results["img"]
        limit = _MAX_ASPECT * min(img.size)
        w, h = min(img.width, limit), min(img.height, limit)
        box = _center_box(img.size, w, h)
        # Truncated, not rounded, as torchvision does.
        target = (
            (self.size, int(self.size * h / w))
            if w <= h
            else (int(self.size * w / h), self.size)
        )
        results["img"] = img.resize(target, Image.Resampling.BILINEAR, box=box)
        return results


@TRANSFORMS.register_module()
class CenterCrop:
    """Central crop of ``size`` pixels, black where the image is smaller."""

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = check_size("CenterCrop", size)

    def __call__(self, results: dict) -> dict:
        """Replace ``results["img"]``."""
        img = results["img"]
        height, width = self.size
        if img.size != (width, height):
            results["img"] = img.crop(_center_box(img.size, width, height))
        return results
