"""Colour changes and blur of one image.

Each operation takes a PIL image, and is PIL's or torchvision's own then, or a uint8
array H x W x 3. For arrays it is made of OpenCV's vectorised operations such that the
pixels agree: PIL truncates where OpenCV rounds, hence the `_TRUNCATE`. Except for hue
and blur, results differ by 1 at some of the pixels where float32 meets an integer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ImageFilter, ImageOps
from torchvision.transforms import functional as F

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import TRANSFORMS

from .random import AnyImage, RandomTransform, check_prob, check_range, uniform

_ORDERS = tuple(itertools.permutations(range(4)))

# Added before rounding; not quite 1/2, so that integers (gray pixels, e.g.) stay.
_TRUNCATE = -0.499

# OpenCV's HSV of float images (degrees, 0..1, 0..255) -> PIL's three bytes, and back.
# PIL has 255 steps on the circle of hues, and truncates hue and saturation.
_TO_PIL_HSV = np.array(
    [
        [255 / 360, 0, 0, _TRUNCATE],
        [0, 255, 0, _TRUNCATE],
        [0, 0, 1, _TRUNCATE],
    ]
)
_FROM_PIL_HSV = np.diag([360 / 255, 1 / 255, 1])


def adjust_brightness(img: AnyImage, factor: float) -> AnyImage:
    """Multiply all values by ``factor``."""
    if not isinstance(img, np.ndarray):
        return F.adjust_brightness(img, factor)
    return cv2.convertScaleAbs(img, alpha=factor, beta=_TRUNCATE)


def adjust_contrast(img: AnyImage, factor: float) -> AnyImage:
    """Move all values away from the mean luma, or towards it."""
    if not isinstance(img, np.ndarray):
        return F.adjust_contrast(img, factor)
    luma = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
    mean = int(cv2.mean(luma)[0] + 0.5)
    return cv2.addWeighted(img, factor, img, 0, mean * (1 - factor) + _TRUNCATE)


def adjust_saturation(img: AnyImage, factor: float) -> AnyImage:
    """Move each pixel away from its luma, or towards it."""
    if not isinstance(img, np.ndarray):
        return F.adjust_saturation(img, factor)
    return cv2.addWeighted(img, factor, _gray(img), 1 - factor, _TRUNCATE)


def adjust_hue(img: AnyImage, shift: float) -> AnyImage:
    """Turn the hue by a fraction of the circle, in PIL's HSV of three bytes."""
    if not isinstance(img, np.ndarray):
        return F.adjust_hue(img, shift)
    hsv = cv2.cvtColor(img.astype(np.float32), cv2.COLOR_RGB2HSV)
    steps: np.ndarray = cv2.convertScaleAbs(cv2.transform(hsv, _TO_PIL_HSV))
    steps[..., 0] += np.uint8(int(shift * 255) % 256)  # wraps around as PIL's bytes do
    hsv = cv2.transform(steps.astype(np.float32), _FROM_PIL_HSV)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def to_gray(img: AnyImage) -> AnyImage:
    """Set all channels to the luma (ITU-R 601-2)."""
    if not isinstance(img, np.ndarray):
        return img.convert("L").convert("RGB")
    return _gray(img)


def _gray(img: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(img, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(img: AnyImage, sigma: float) -> AnyImage:
    """Blur as PIL does: by three box filters in a row, which repeat the edge each."""
    if not isinstance(img, np.ndarray):
        return img.filter(ImageFilter.GaussianBlur(sigma))
    # One pass with all three in one kernel takes 15% less, but repeats the image's own
    # edge only, which differs by up to 9 there.
    box = box_kernel(sigma).astype(np.float32)
    for _ in range(3):
        img = cv2.sepFilter2D(img, -1, box, box, borderType=cv2.BORDER_REPLICATE)
    return img


def box_kernel(sigma: float) -> np.ndarray:
    """One of PIL's three box filters (Gwosdek et al., SSVM 2011): [e, 1, ..., 1, e]."""
    variance = sigma * sigma / 3
    whole = int(((12 * variance + 1) ** 0.5 - 1) / 2)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius = whole + edge / (6 * (variance - (whole + 1) ** 2))
    kernel = np.ones(2 * int(radius) + 3)
    kernel[[0, -1]] = radius - int(radius)
    return kernel / (2 * radius + 1)


def solarize(img: AnyImage, threshold: int) -> AnyImage:
    """Invert the values from ``threshold`` on."""
    if not isinstance(img, np.ndarray):
        return ImageOps.solarize(img, threshold)
    _, bright = cv2.threshold(img, threshold - 1, 255, cv2.THRESH_BINARY)
    return cv2.bitwise_xor(img, bright)  # 255 - value, where bright is 255


_OPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


class JitterParams(NamedTuple):
    """Drawn colour jitter: the order of the operations and their factors."""

    order: tuple[int, ...]  # 0 brightness, 1 contrast, 2 saturation, 3 hue
    factors: tuple[float, ...]  # neutral: 1, 1, 1 and 0


_NEUTRAL = JitterParams((0, 1, 2, 3), (1.0, 1.0, 1.0, 0.0))


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
        names = ("brightness", "contrast", "saturation", "hue")
        values = (brightness, contrast, saturation, hue)
        for name, value in zip(names, values, strict=True):
            top = 0.5 if name == "hue" else float("inf")
            if not isinstance(value, (int, float)) or not 0 <= value <= top:
                limit = "in [0, 0.5]" if name == "hue" else "at least 0"
                raise UserValueError(
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

    def apply(self, img: AnyImage, params: JitterParams) -> AnyImage:
        """Apply the operations of non-zero strength in the drawn order."""
        # No finer than encode's, so that the device can do exactly the same.
        factors = np.asarray(params.factors, np.float32).tolist()
        for op in params.order:
            if self._active[op]:
                img = _OPS[op](img, factors[op])
        return img

    def encode(self, params: JitterParams | None) -> np.ndarray:
        """Return the order, then the factors: 8 values."""
        order, factors = _NEUTRAL if params is None else params
        return np.array([*order, *factors], np.float32)


@TRANSFORMS.register_module()
class RandomGrayscale(RandomTransform):
    """With probability ``prob`` set all channels to the luma (ITU-R 601-2)."""

    device_name = "RandomGrayscale"
    keeps_box = True

    def __init__(self, prob: float = 0.2) -> None:
        self.prob = check_prob("RandomGrayscale", prob)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> bool | None:
        """Draw True (gray) or None."""
        return True if rng.random() < self.prob else None

    def apply(self, img: AnyImage, params: bool) -> AnyImage:
        """Return the gray image, still with three channels."""
        return to_gray(img)

    def encode(self, params: bool | None) -> np.ndarray:
        """Return 1 for gray, else 0."""
        return np.array([params is not None], np.float32)


@TRANSFORMS.register_module()
class RandomSolarize(RandomTransform):
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
        self.prob = check_prob("RandomSolarize", prob)

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> bool | None:
        """Draw True (solarize) or None."""
        return True if rng.random() < self.prob else None

    def apply(self, img: AnyImage, params: bool) -> AnyImage:
        """Invert the bright values."""
        return solarize(img, self.threshold)

    def encode(self, params: bool | None) -> np.ndarray:
        """Return the threshold; 256, which no value reaches, for none."""
        return np.array([256 if params is None else self.threshold], np.float32)


@TRANSFORMS.register_module()
class GaussianBlur(RandomTransform):
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

    def apply(self, img: AnyImage, params: float) -> AnyImage:
        """Blur the image."""
        return blur(img, float(np.float32(params)))  # no finer than encode's

    def encode(self, params: float | None) -> np.ndarray:
        """Return the standard deviation, 0 for none."""
        return np.array([params or 0], np.float32)
