"""Base of the random transforms: parameters are drawn first, then applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from PIL import Image


class RandomTransform(ABC):
    """A transform in two steps, so that a device-side version can share the draws.

    ``results["img"]`` (PIL, RGB) is replaced; draws come from ``results["rng"]``.
    """

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Any:
        """Draw the parameters for an image of ``size`` = (width, height) pixels.

        Returns:
            The parameters, or None to leave the image as it is.
        """

    @abstractmethod
    def apply(self, img: Image.Image, params: Any) -> Image.Image:
        """Return the transformed image; a pure function of its arguments."""

    def __call__(self, results: dict) -> dict:
        """Draw and apply."""
        img = results["img"]
        params = self.draw(results["rng"], img.size)
        if params is not None:
            results["img"] = self.apply(img, params)
        return results


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from [low, high); four times as fast as ``rng.uniform``."""
    return low + (high - low) * rng.random()


def check_prob(owner: str, prob: float) -> float:
    """Return ``prob`` if it is a probability."""
    if not 0 <= prob <= 1:
        raise ValueError(f"{owner}: prob must lie in [0, 1], but is {prob!r}.")
    return float(prob)


def check_range(
    owner: str, name: str, value: Any, low: float, high: float
) -> tuple[float, float]:
    """Return ``value`` as a pair (min, max) if low <= min <= max <= high."""
    try:
        first, last = (float(v) for v in value)
    except (TypeError, ValueError):
        first, last = float("nan"), float("nan")
    if not low <= first <= last <= high:
        raise ValueError(
            f"{owner}: {name} must be a pair (min, max) within [{low:g}, {high:g}], "
            f"but is {value!r}."
        )
    return first, last


def check_size(owner: str, size: Any) -> tuple[int, int]:
    """Return ``size``, an int or (height, width), as (height, width)."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(s, int) or s < 1 for s in pair):
        raise ValueError(
            f"{owner}: size must be a positive integer or a pair (height, width) of "
            f"them, but is {size!r}."
        )
    return pair
