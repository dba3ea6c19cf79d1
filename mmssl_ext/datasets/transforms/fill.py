"""Fill a hole of an image from what surrounds it."""

from __future__ import annotations

import cv2
import numpy as np


def fill_hole(img: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image whose subject is gone: each of its pixels is replaced.

    By a pyramid (Gortler et al., "The Lumigraph", 1996): the pixels that are left are
    averaged over squares of twice the side each time, and holes take the value of the
    smallest square that has some. No pixel with any share of the subject is used.

    Args:
        img: H x W x C.
        mask: H x W, 0 where the background is seen.

    Returns:
        float32, H x W x C. Where nothing is left, 128.
    """
    known = (mask <= 0).astype(np.float32)
    if not known.any():
        return np.full(img.shape, 128, np.float32)
    return _filled(img.astype(np.float32), known)


def _filled(img: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Replace the values of unknown pixels, by those of an image of half the size."""
    if known.all():
        return img
    height, width = known.shape
    pad = ((0, height % 2), (0, width % 2))
    shares = np.pad(known, pad)  # what is added is unknown, too
    sums = np.pad(img * known[..., None], (*pad, (0, 0)))
    shares, sums = _blocks(shares), _blocks(sums)
    mean = sums / np.maximum(shares, 1)[..., None]
    coarse = _filled(mean, (shares > 0).astype(np.float32))
    grown = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    grown = grown.reshape(img.shape)
    return np.where(known[..., None] > 0, img, grown)


def _blocks(x: np.ndarray) -> np.ndarray:
    """Sums over squares of 2 x 2."""
    return x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]
