"""Colour changes and blur of one image.

The operations take a uint8 array H x W x 3 and are made of OpenCV's vectorised ones
such that the pixels are those of PIL and torchvision: PIL truncates where OpenCV
rounds, hence the `_TRUNCATE`. Except for hue and blur, results differ by 1 at some of
the pixels where float32 meets an integer. Bands, which come in float32, go to
:mod:`.banded`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import TRANSFORMS

from . import banded
from .random import BatchTransform, RandomSwitch, check_prob, check_range, uniform

_ORDERS = tuple(itertools.permutations(range(4)))

# Added before rounding; not quite 1/2, so that integers (gray pixels, e.g.) stay.
_TRUNCATE = -0.499

# OpenCV's HSV of float images (degrees, 0..1, 0..255) -> PIL's three bytes, and back.
# PIL has 255 steps on the circle of hues, and truncates hue and saturation.
_TO_PIL_HSV = np.array(
    [[255 / 360, 0, 0, _TRUNCATE], [0, 255, 0, _TRUNCATE], [0, 0, 1, _TRUNCATE]]
)
_FROM_PIL_HSV = np.diag([360 / 255, 1 / 255, 1])


def adjust_brightness(img: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all values by ``factor``."""
    return cv2.convertScaleAbs(img, alpha=factor, beta=_TRUNCATE)


def adjust_contrast(img: np.ndarray, factor: float) -> np.ndarray:
    """Move all values away from the mean luma, or towards it."""
    luma = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
    mean = int(cv2.mean(luma)[0] + 0.5)
    return cv2.addWeighted(img, factor, img, 0, mean * (1 - factor) + _TRUNCATE)


def adjust_saturation(img: np.ndarray, factor: float) -> np.ndarray:
    """Move each pixel away from its luma, or towards it."""
    return cv2.addWeighted(img, factor, to_gray(img), 1 - factor, _TRUNCATE)


def adjust_hue(img: np.ndarray, shift: float) -> np.ndarray:
    """Turn the hue by a fraction of the circle, in PIL's HSV of three bytes."""
    hsv = cv2.cvtColor(img.astype(np.float32), cv2.COLOR_RGB2HSV)
    steps: np.ndarray = cv2.convertScaleAbs(cv2.transform(hsv, _TO_PIL_HSV))
    steps[..., 0] += np.uint8(int(shift * 255) % 256)  # wraps around as PIL's bytes do
    hsv = cv2.transform(steps.astype(np.float32), _FROM_PIL_HSV)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def to_gray(img: np.ndarray) -> np.ndarray:
    """Set all channels to the luma (ITU-R 601-2)."""
    return cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(img: np.ndarray, sigma: float) -> np.ndarray:
    """Blur as PIL does: by three box filters in a row, which repeat the edge each."""
    # One pass with all three in one kernel takes 15% less, but repeats the image's own
    # edge only, which differs by up to 9 there.
    box, shape = box_kernels(np.array([sigma]))[0], img.shape
    for _ in range(3):
        img = cv2.sepFilter2D(img, -1, box, box, borderType=cv2.BORDER_REPLICATE)
    return img.reshape(shape)  # OpenCV leaves out the axis of a single band


def box_kernels(sigma: np.ndarray) -> np.ndarray:
    """Return PIL's box filters for n radii of its Gaussian blur, n x K with K odd.

    Their width is fractional: [edge, 1, ..., 1, edge] / sum (Gwosdek et al.,
    "Theoretical foundations of Gaussian convolution by extended box filtering", SSVM
    2011). Shorter ones are padded with zeros.
    """
    variance = sigma.astype(np.float64)[:, None] ** 2 / 3
    half = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    edge = (2 * half + 1) * (half * (half + 1) - 3 * variance)
    edge = edge / (6 * (variance - (half + 1) ** 2))
    reach = int(half.max()) + 1
    distance = np.abs(np.arange(-reach, reach + 1))
    box = (distance <= half) + (distance == half + 1) * edge
    return (box / (2 * (half + edge) + 1)).astype(np.float32)


def solarize(img: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the values from ``threshold`` on."""
    _, bright = cv2.threshold(img, threshold - 1, 255, cv2.THRESH_BINARY)
    return cv2.bitwise_xor(img, bright)  # 255 - value, where bright is 255


_OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


class JitterParams(NamedTuple):
    """Random colour jitter: the order of the operations and their factors."""

    order: tuple[int, ...]  # 0 brightness, 1 contrast, 2 saturation, 3 hue
    factors: tuple[float, ...]  # neutral: 1, 1, 1 and 0


_NEUTRAL = JitterParams((0, 1, 2, 3), (1.0, 1.0, 1.0, 0.0))


@TRANSFORMS.register_module()
class ColorJitter(BatchTransform):
    """Change brightness, contrast, saturation and hue by random amounts.

    The four operations follow each other in random order, as in torchvision.

    Args:
        brightness: Factor uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: The same for the contrast.
        saturation: The same for the saturation.
        hue: Shift uniform in [-hue, hue] as a fraction of the colour circle.
        prob: Probability that the image is changed at all.
    """

    device_name = "ColorJitter"
    keeps_box = True

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        prob: float = 0.8,
    ) -> None:
        blends = (brightness, contrast, saturation)
        names = ("brightness", "contrast", "saturation", "hue")
        for name, value in zip(names, (*blends, hue), strict=True):
            top = 0.5 if name == "hue" else float("inf")
            if not isinstance(value, (int, float)) or not 0 <= value <= top:
                raise UserValueError(
                    f"ColorJitter: {name} must be a number in [0, {top}], but is "
                    f"{value!r}."
                )
        self.prob = check_prob("ColorJitter", prob)
        self._ranges = [(max(0.0, 1.0 - v), 1.0 + v) for v in blends]
        self._ranges.append((-float(hue), float(hue)))

    def draw(
        self, rng: np.random.Generator, size: tuple[int, int]
    ) -> JitterParams | None:
        """Draw the order and the four factors."""
        if rng.random() >= self.prob:
            return None
        order = _ORDERS[int(rng.random() * len(_ORDERS))]
        return JitterParams(order, tuple(uniform(rng, *r) for r in self._ranges))

    def encode(self, params: JitterParams | None) -> np.ndarray:
        """Return the order, then the factors: 8 values."""
        order, factors = _NEUTRAL if params is None else params
        return np.array([*order, *factors], np.float32)

    @staticmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Apply the operations that are not neutral, in their order."""
        operations = _OPERATIONS if img.dtype == np.uint8 else banded.OPERATIONS
        for number in map(int, values[:4]):
            if (factor := values[4 + number]) != _NEUTRAL.factors[number]:
                img = operations[number](img, factor)
        return img


@TRANSFORMS.register_module()
class RandomGrayscale(RandomSwitch):
    """With probability ``prob`` set all channels to the luma (ITU-R 601-2)."""

    device_name = "RandomGrayscale"
    keeps_box = True

    def __init__(self, prob: float = 0.2) -> None:
        super().__init__(prob)

    @staticmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Return the gray image, still with all its channels."""
        if not values[0]:
            return img
        return to_gray(img) if img.dtype == np.uint8 else banded.to_gray(img)


@TRANSFORMS.register_module()
class RandomSolarize(RandomSwitch):
    """With probability ``prob`` invert the bright values (BYOL, arXiv 2006.07733).

    Args:
        threshold: Values from this one on become 255 minus themselves.
        prob: Probability of doing so.
    """

    device_name = "RandomSolarize"
    keeps_box = True

    def __init__(self, threshold: int = 128, prob: float = 0.2) -> None:
        if not isinstance(threshold, int) or not 0 <= threshold <= 256:
            raise UserValueError(
                "RandomSolarize: threshold must be an integer in [0, 256], but is "
                f"{threshold!r}."
            )
        self.threshold = threshold
        super().__init__(prob)

    def encode(self, params: bool | None) -> np.ndarray:
        """Return the threshold; 256, which no value reaches, for none."""
        return np.array([256 if params is None else self.threshold], np.float32)

    @staticmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Invert the bright values."""
        if values[0] >= 256:
            return img
        change = solarize if img.dtype == np.uint8 else banded.solarize
        return change(img, int(values[0]))


@TRANSFORMS.register_module()
class GaussianBlur(BatchTransform):
    """Gaussian blur with a random standard deviation (SimCLR, arXiv 2002.05709).

    Args:
        sigma_range: Range of the standard deviation in pixels; PIL's radius.
        prob: Probability of blurring.
    """

    device_name = "GaussianBlur"
    keeps_box = True

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

    def encode(self, params: float | None) -> np.ndarray:
        """Return the standard deviation, 0 for none."""
        return np.array([params or 0], np.float32)

    @staticmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Blur the image."""
        return blur(img, values[0]) if values[0] else img
