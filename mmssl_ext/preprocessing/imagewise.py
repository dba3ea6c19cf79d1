"""Augmentation of a batch image by image, by the functions that the workers use.

On a CPU these are faster than operations on whole batches, and from equal parameters
they make the workers' own pixels. Nothing is drawn here; see :mod:`.batchwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from mmssl_ext.datasets.transforms import color, geometry, patches

from .batchwise import check_operations

_JITTER = (
    (color.adjust_brightness, 1.0),
    (color.adjust_contrast, 1.0),
    (color.adjust_saturation, 1.0),
    (color.adjust_hue, 0.0),
)


def _jitter(img: Any, params: list[float]) -> Any:
    for number in map(int, params[:4]):
        change, neutral = _JITTER[number]
        if params[4 + number] != neutral:
            img = change(img, params[4 + number])
    return img


def _cut(img: Any, params: list[float]) -> Any:
    side, *corners = map(int, params)
    pairs = list(zip(corners[::2], corners[1::2], strict=True))
    return patches.cut_patches(img, side, pairs)


# To an array H x W x 3 and the parameters that the transform of that name encodes.
FUNCTIONS: dict[str, Callable[[Any, list[float]], Any]] = {
    "ColorJitter": _jitter,
    "RandomGrayscale": lambda x, p: color.to_gray(x) if p[0] else x,
    "RandomSolarize": lambda x, p: color.solarize(x, int(p[0])) if p[0] < 256 else x,
    "GaussianBlur": lambda x, p: color.blur(x, p[0]) if p[0] else x,
    "RandomFlip": lambda x, p: geometry.flip(x) if p[0] else x,
    "CutPatches": _cut,
}


def augment_imagewise(view: Tensor, operations: Mapping[str, Tensor]) -> Tensor:
    """Do on the CPU what :func:`.batchwise.augment` does, with the same arguments."""
    check_operations(view, operations)
    if not operations:
        return view
    rows = {name: params.tolist() for name, params in operations.items()}
    images = []
    for number, planes in enumerate(view.numpy()):
        image = cv2.merge(tuple(planes))  # H x W x 3
        for name, params in rows.items():
            image = FUNCTIONS[name](image, params[number])
        images.append(_planes(image))
    return torch.from_numpy(np.stack(images))


def _planes(image: np.ndarray) -> np.ndarray:
    """Return 3 x H x W, or P x 3 x s x s of patches."""
    if image.ndim == 4:
        return np.stack([_planes(patch) for patch in image])
    return np.stack(cv2.split(image))
