"""Colour changes of bands: float32 H x W x C in units of 0 to 255, never clipped.

What means something for a single band is done to each: brightness, contrast about its
own mean, solarisation. Gray is the mean of all bands, as in the recipes for satellite
images (SSL4EO-S12, arXiv 2211.07044), and saturation the distance from it. Hue needs
red, green and blue, and is left as it is.
"""

from __future__ import annotations

import numpy as np


def adjust_brightness(img: np.ndarray, factor: float) -> np.ndarray:
    """Multiply all values by ``factor``."""
    return img * np.float32(factor)


def adjust_contrast(img: np.ndarray, factor: float) -> np.ndarray:
    """Move the values of each band away from its mean, or towards it."""
    mean = img.mean((0, 1), dtype=np.float64).astype(np.float32)
    return mean + np.float32(factor) * (img - mean)


def adjust_saturation(img: np.ndarray, factor: float) -> np.ndarray:
    """Move each pixel away from the mean of its bands, or towards it."""
    mean = img.mean(2, keepdims=True)
    return mean + np.float32(factor) * (img - mean)


def keep_hue(img: np.ndarray, shift: float) -> np.ndarray:
    """Return the image as it is."""
    return img


def to_gray(img: np.ndarray) -> np.ndarray:
    """Set all bands to their mean."""
    return np.repeat(img.mean(2, keepdims=True), img.shape[2], axis=2)


def solarize(img: np.ndarray, threshold: int) -> np.ndarray:
    """Replace the values from ``threshold`` on by 255 minus themselves."""
    return np.where(img >= threshold, 255 - img, img)


OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, keep_hue)
