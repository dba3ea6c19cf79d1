"""Base of the random transforms: parameters are drawn first, then applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image

from mmssl_ext.errors import UserValueError

from .placing import WHOLE, ViewBox, move_box

AnyImage: TypeAlias = Image.Image | np.ndarray  # PIL in RGB, or uint8 H x W x 3


def image_size(img: AnyImage) -> tuple[int, int]:
    """Return (width, height)."""
    if isinstance(img, np.ndarray):
        return img.shape[1], img.shape[0]
    return img.size


class RandomTransform(ABC):
    """A transform in two steps, so that a device-side version can share the draws.

    ``results["img"]`` (see :class:`DecodeImage`) is replaced; draws come from
    ``results["rng"]``, and do not depend on the kind of the image.
    """

    #: Name of the operation on whole batches that ``MakeViews(augment_on="device")``
    #: leaves to the device, with the parameters that :meth:`encode` gives.
    device_name: ClassVar[str | None] = None

    #: Whether :meth:`locate` is right, by default that no pixel moves. A class that
    #: defines :meth:`apply` has to say so itself; see :mod:`.placing`.
    keeps_box: ClassVar[bool] = False

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Any:
        """Draw the parameters for an image of ``size`` = (width, height) pixels.

        Returns:
            The parameters, or None to leave the image as it is.
        """

    @abstractmethod
    def apply(self, img: AnyImage, params: Any) -> AnyImage:
        """Return the transformed image, of the same kind; ``img`` stays as it is."""

    def locate(self, params: Any, size: tuple[int, int]) -> ViewBox:
        """Where in an image of ``size`` the pixels of the result come from.

        Args:
            params: As drawn, not None.
            size: (width, height) in pixels.

        Returns:
            A box in units of the image, x0 > x1 where it is mirrored.
        """
        return WHOLE

    def encode(self, params: Any) -> np.ndarray:
        """Return drawn parameters, or None, as float32 of a fixed length."""
        raise NotImplementedError(f"{type(self).__name__} has no device version.")

    def __call__(self, results: dict) -> dict:
        """Draw and apply."""
        img = results["img"]
        size = image_size(img)
        params = self.draw(results["rng"], size)
        if params is not None:
            results["img"] = self.apply(img, params)
            move_box(results, self.locate(params, size))
        return results


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from [low, high); four times as fast as ``rng.uniform``."""
    return low + (high - low) * rng.random()


def check_prob(owner: str, prob: float) -> float:
    """Return ``prob`` if it is a probability."""
    if not 0 <= prob <= 1:
        raise UserValueError(f"{owner}: prob must lie in [0, 1], but is {prob!r}.")
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
        raise UserValueError(
            f"{owner}: {name} must be a pair (min, max) within [{low:g}, {high:g}], "
            f"but is {value!r}."
        )
    return first, last


def check_size(owner: str, size: Any) -> tuple[int, int]:
    """Return ``size``, an int or (height, width), as (height, width)."""
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(s, int) or s < 1 for s in pair):
        raise UserValueError(
            f"{owner}: size must be a positive integer or a pair (height, width) of "
            f"them, but is {size!r}."
        )
    return pair
