"""Colour changes and blur of PIL images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms import functional as F

from mmssl_ext.registry import TRANSFORMS

from .random import RandomTransform, check_prob, check_range, uniform

_OPS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
_ORDERS = tuple(itertools.permutations(range(4)))


class JitterParams(NamedTuple):
    """Drawn colour jitter: the order of the operations and their factors."""

    order: tuple[int, ...]  # 0 brightness, 1 contrast, 2 saturation, 3 hue
    factors: tuple[float, ...]  # neutral: 1, 1, 1 and 0


@TRANSFORMS.register_module()
class ColorJitter(RandomTransform):
    """Change brightness, contrast, saturation and hue by random amounts.

    The four operations follow each other in random order, as in torchvision.

    Args:
        brightness: Factor uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: The same for the contrast.
        saturation: The same for the saturation.
        hue: Shift uniform in [-hue, hue] as a fraction of the colour circle.
        prob: Probability that the image is changed at all.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        prob: float = 0.8,
    ) -> None:
        names = ("brightness", "contrast", "saturation", "hue")
        values = (brightness, contrast, saturation, hue)
        for name, value in zip(names, values, strict=True):
            top = 0.5 if name == "hue" else float("inf")
            if not isinstance(value, (int, float)) or not 0 <= value <= top:
                limit = "in [0, 0.5]" if name == "hue" else "at least 0"
                raise ValueError(
                    f"ColorJitter: {name} must be a number {limit}, but is {value!r}."
                )
        self.prob = check_prob("ColorJitter", prob)
        self._ranges = tuple((max(0.0, 1.0 - v), 1.0 + v) for v in values[:3])
        self._ranges += ((-float(hue), float(hue)),)
        self._active = tuple(v > 0 for v in values)

    def draw(
        self, rng: np.random.Generator, size: tuple[int, int]
    ) -> JitterParams | None:
        """Draw the order and the four factors."""
        if rng.random() >= self.prob:
            return None
        order = _ORDERS[int(rng.random() * len(_ORDERS))]
        return JitterParams(order, tuple(uniform(rng, *r) for r in self._ranges))

    def apply(self, img: Image.Image, params: JitterParams) -> Image.Image:
        """Apply the operations of non-zero strength in the drawn order."""
        for op in params.order:
            if self._active[op]:
                img = _OPS[op](img, params.factors[op])
        return img


@TRANSFORMS.register_module()
class RandomGrayscale(RandomTransform):
    """With probability ``prob`` set all channels to the luma (ITU-R 601-2)."""

    def __init__(self, prob: float = 0.2) -> None:
        self.prob = check_prob("RandomGrayscale", prob)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> bool | None:
        """Draw True (gray) or None."""
        return True if rng.random() < self.prob else None

    def apply(self, img: Image.Image, params: bool) -> Image.Image:
        """Return the gray image, still with three channels."""
        return img.convert("L").convert("RGB")


@TRANSFORMS.register_module()
class GaussianBlur(RandomTransform):
    """Gaussian blur with a random standard deviation (SimCLR, arXiv 2002.05709).

    Args:
        sigma_range: Range of the standard deviation in pixels; PIL's radius.
        prob: Probability of blurring.
    """

    def __init__(
        self, sigma_range: Sequence[float] = (0.1, 2.0), prob: float = 0.5
    ) -> None:
        self.sigma_range = check_range(
            "GaussianBlur", "sigma_range", sigma_range, 0, float("inf")
        )
        self.prob = check_prob("GaussianBlur", prob)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> float | None:
        """Draw the standard deviation, or None."""
        return uniform(rng, *self.sigma_range) if rng.random() < self.prob else None

    def apply(self, img: Image.Image, params: float) -> Image.Image:
        """Blur the image."""
        return img.filter(ImageFilter.GaussianBlur(radius=params))
