"""Augmentation of batches with parameters per image, on the CPU or a GPU.

Nothing is random here: the parameters come with the batch, drawn in the loader's
workers from counters of seed, epoch, sample and view. An image's result depends on its
own parameters only, never on its neighbours in the batch, and is the same in every run.

Each operation exists twice: for arrays, which are a batch's images one by one on the
CPU (:mod:`mmssl_ext.datasets.transforms`, the pixels of the workers), and for tensors,
which are whole batches on any device (:mod:`.batchwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from mmssl_ext.datasets import transforms
from mmssl_ext.errors import UserValueError

from . import batchwise

# Temporaries take up to some 60 bytes per pixel; on a CPU they should stay in its
# cache, while a GPU wants few and large launches.
_CHUNK_PIXELS = {"cpu": 1 << 16}
_LARGE_CHUNK_PIXELS = 1 << 24


class Operation(NamedTuple):
    """An operation in both forms."""

    length: int | None  # of the parameters of an image; None: 1 + 2P
    on_batch: Callable[[Tensor, Tensor], Tensor]  # to a view and parameters N x L
    on_image: Callable[[Any, list[float]], Any]  # to an array H x W x 3


OPERATIONS = {
    kind.device_name: Operation(length, on_batch, kind.change)
    for kind, length, on_batch in (
        (transforms.ColorJitter, 8, batchwise.jitter),
        (transforms.RandomGrayscale, 1, batchwise.grayscale),
        (transforms.RandomSolarize, 1, batchwise.solarize),
        (transforms.GaussianBlur, 1, batchwise.blur),
        (transforms.RandomFlip, 1, batchwise.flip),
        (transforms.CutPatches, None, batchwise.cut_patches),
    )
}


def augment(view: Tensor, operations: Mapping[str, Tensor]) -> Tensor:
    """Apply operations with their parameters per image, in the mapping's order.

    Args:
        view: Images in uint8, N x 3 x H x W, of any strides; not changed.
        operations: By name the parameters on the CPU, N x L, as the transform of that
            name encodes them.

    Returns:
        Images in uint8 on the view's device, N x 3 x H x W, or N x P x 3 x s x s after
        CutPatches. Images that no operation concerns are the same bit by bit; if there
        are no others, it may be ``view`` itself.

    Raises:
        ValueError: Unknown names, or parameters of another shape.
    """
    _check(view, operations)
    if not len(view):
        return view
    pixels = _CHUNK_PIXELS.get(view.device.type, _LARGE_CHUNK_PIXELS)
    rows = max(pixels // (view.size(2) * view.size(3)), 1)
    parts = []
    with torch.no_grad(), _full_precision(view.device.type):
        for start in range(0, len(view), rows):
            part = view[start : start + rows]
            for name, params in operations.items():
                chosen = params[start : start + rows].float()
                part = OPERATIONS[name].on_batch(part, chosen)
            parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def augment_imagewise(view: Tensor, operations: Mapping[str, Tensor]) -> Tensor:
    """Do on the CPU, with the workers' pixels, what :func:`augment` does.

    There it is faster than operations on whole batches.
    """
    _check(view, operations)
    if not operations:
        return view
    rows = {name: params.tolist() for name, params in operations.items()}
    images = []
    for number, planes in enumerate(view.numpy()):
        image = cv2.merge(tuple(planes))  # H x W x 3
        for name, params in rows.items():
            image = OPERATIONS[name].on_image(image, params[number])
        images.append(_planes(image))
    return torch.from_numpy(np.stack(images))


def _planes(image: np.ndarray) -> np.ndarray:
    """Return 3 x H x W, or P x 3 x s x s of patches."""
    if image.ndim == 4:
        return np.stack([_planes(patch) for patch in image])
    return np.stack(cv2.split(image))


def _full_precision(device_type: str) -> AbstractContextManager:
    """Keep convolutions from half precision where the step has it."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def _check(view: Tensor, operations: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with a sentence for the user, where they do not fit a view."""
    for name, params in operations.items():
        if name not in OPERATIONS:
            raise UserValueError(
                f"The batch asks for the augmentation '{name}' on the device, where "
                f"only {', '.join(OPERATIONS)} are known; let it run in the workers: "
                'MakeViews(augment_on="worker").'
            )
        if view.ndim != 4 or view.size(1) != 3 or view.dtype != torch.uint8:
            raise UserValueError(
                f"'{name}' on the device takes images in uint8, N x 3 x H x W, but got "
                f"{view.dtype} of the shape {tuple(view.shape)}. Patches cannot be "
                "changed after they are cut."
            )
        length = OPERATIONS[name].length
        columns = params.size(1) if params.ndim == 2 else 0
        fits = columns % 2 == 1 if length is None else columns == length
        if not fits or len(params) != len(view) or params.device.type != "cpu":
            raise UserValueError(
                f"The parameters of '{name}' have the shape {tuple(params.shape)}, but "
                f"the view needs {len(view)} x {length or '(1 + 2 P)'}, on the CPU: as "
                "many values for each image as the transform of that name encodes."
            )
        if length is None and name != list(operations)[-1]:
            raise UserValueError(f"'{name}' returns patches, so it must come last.")
