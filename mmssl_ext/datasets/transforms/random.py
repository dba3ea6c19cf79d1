"""Base of the random transforms: parameters are drawn first, then applied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image

from mmssl_ext.errors import UserValueError

from .placing import WHOLE, ViewBox, move_box

#: PIL in RGB, or an array: uint8 H x W x 3, or bands in float32, H x W x C.
AnyImage: TypeAlias = Image.Image | np.ndarray


def image_size(img: AnyImage) -> tuple[int, int]:
    """Return (width, height)."""
    if isinstance(img, np.ndarray):
        return img.shape[1], img.shape[0]
    return img.size


def is_rgb(img: AnyImage) -> bool:
    """Whether it is 8-bit RGB, not bands in float32."""
    return not isinstance(img, np.ndarray) or img.dtype == np.uint8


def on_array(img: AnyImage, change: Callable[..., np.ndarray], *args: Any) -> AnyImage:
    """Change an array; a PIL image by way of an array, so that PIL's again comes out.

    Patches, P x H x W x 3, stay an array.
    """
    if isinstance(img, np.ndarray):
        return change(img, *args)
    changed = change(np.array(img if img.mode == "RGB" else img.convert("RGB")), *args)
    return Image.fromarray(changed) if changed.ndim == 3 else changed


class RandomTransform(ABC):
    """A transform in two steps: random parameters, and what they do to the pixels.

    ``results["img"]`` (see :class:`DecodeImage`) is replaced; parameters come from
    ``results["rng"]``, and do not depend on the kind of the image.
    """

    #: Whether :meth:`locate` is right, by default that no pixel moves. A class that
    #: defines what happens to the pixels has to say so itself; see :mod:`.placing`.
    keeps_box: ClassVar[bool] = False

    @abstractmethod
    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Any:
        """Draw parameters for an image of (width, height) pixels; None leaves it."""

    @abstractmethod
    def apply(self, img: AnyImage, params: Any) -> AnyImage:
        """Return the transformed image, of the same kind; ``img`` stays as it is."""

    def locate(self, params: Any, size: tuple[int, int]) -> ViewBox:
        """Where in an image of ``size`` the pixels of the result come from.

        A box in units of the image, x0 > x1 where it is mirrored; ``params`` as drawn.
        """
        return WHOLE

    def __call__(self, results: dict) -> dict:
        """Draw and apply."""
        img = results["img"]
        size = image_size(img)
        params = self.draw(results["rng"], size)
        if params is not None:
            results["img"] = self.apply(img, params)
            move_box(results, self.locate(params, size))
        return results


class BatchTransform(RandomTransform):
    """A random transform that the device can do for a whole batch.

    Parameters are encoded as float32 for both, so that the worker does exactly what
    the device is asked for.
    """

    #: Name of the operation on whole batches, in :mod:`mmssl_ext.preprocessing`.
    device_name: ClassVar[str]

    @abstractmethod
    def encode(self, params: Any) -> np.ndarray:
        """Return drawn parameters, or None, as float32 of a fixed length."""

    @staticmethod
    @abstractmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Do to an image as an array what encoded parameters say."""

    def apply(self, img: AnyImage, params: Any) -> AnyImage:
        """Return the transformed image."""
        return on_array(img, self.change, self.encode(params).tolist())


class RandomSwitch(BatchTransform):
    """An operation that is done with probability ``prob``, and has no parameters."""

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = check_prob(type(self).__name__, prob)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> bool | None:
        """Draw True or None."""
        return True if rng.random() < self.prob else None

    def encode(self, params: bool | None) -> np.ndarray:
        """Return 1 where it is done, else 0."""
        return np.array([params is not None], np.float32)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from [low, high); four times as fast as ``rng.uniform``."""
    return low + (high - low) * rng.random()


def check_choice(name: str, value: Any, *choices: str) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise UserValueError(f"{name} must be {listed}, but is {value!r}.")


def check_prob(owner: str, prob: float) -> float:
    """Return ``prob`` if it is a probability."""
    if not isinstance(prob, (int, float)) or not 0 <= prob <= 1:
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
