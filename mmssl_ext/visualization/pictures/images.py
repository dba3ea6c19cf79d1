"""Images for pictures: read one by one, batched and turned back into pixels."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch import Tensor

from mmssl_ext.datasets.base import SSLDataset
from mmssl_ext.datasets.seeds import AugmentationSeed
from mmssl_ext.datasets.transforms.decode import UnreadableImageError
from mmssl_ext.engine.monitor.augmentation_seed import seeded_datasets
from mmssl_ext.errors import ConfigError, UserValueError

_DEVIATIONS = 2.0  # from the mean, at which a band is black or of full brightness
#: How bands are drawn, for captions.
OF_BANDS = (
    "Shown as red, green and blue are the first three bands in the order of `bands` "
    "(of fewer the first), each from two deviations below its mean to two above."
)
MAX_IMAGES = 32  # more would be a picture that no viewer opens


def check_num(num: int) -> None:
    """Refuse a number of images that makes no picture."""
    if not 1 <= num <= MAX_IMAGES:
        raise UserValueError(
            f"--num {num}: a picture shows 1 to {MAX_IMAGES} images, a row or column "
            "for each."
        )


def own_dataset(given: Any) -> SSLDataset:
    """The first dataset of this package, also within wrappers.

    Raises:
        ConfigError: There is none.
    """
    for dataset in seeded_datasets(given):
        if isinstance(dataset, SSLDataset):
            return dataset
    raise ConfigError(
        f"The training set is a {type(given).__name__}, no dataset of mmssl_ext, whose "
        "images could be read one by one."
    )


def with_pipeline(dataset: SSLDataset, pipeline: Sequence[Any]) -> SSLDataset:
    """Copy a dataset with other transforms; unreadable images are errors there.

    Its random numbers count for nobody else.
    """
    twin = copy.copy(dataset)
    twin.on_error = "raise"
    twin.augmentation_seed = AugmentationSeed()
    twin.pipeline = list(pipeline)
    return twin


def readable(
    dataset: SSLDataset,
    indices: Iterable[int],
    most: int | None = None,
    unreadable: dict[int, str] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Items of a dataset with their index; those that cannot be read are left out.

    It stops after ``most`` of them. ``unreadable`` are those that are known to be, with
    the reason; new ones are added and warned of.

    Raises:
        FileNotFoundError: None of them can be read.
    """
    found = 0
    unreadable = {} if unreadable is None else unreadable
    known = len(unreadable)
    for index in indices:
        if found == most:
            break
        if index in unreadable:
            continue
        try:
            item = dataset[index]
        except UnreadableImageError as error:
            unreadable[index] = str(error)
            continue
        found += 1
        yield index, item
    reasons = list(unreadable.values())
    if reasons and not found:
        raise FileNotFoundError(
            f"None of {len(reasons)} images can be read. {reasons[0]}"
        )
    if len(reasons) > known:
        warn(f"{len(reasons) - known} images are left out. {reasons[known]}")


def to_images(view: Tensor, preprocessor: Any) -> np.ndarray:
    """Turn a view that was normalised, ... x C x H x W, into uint8 ... x H x W x 3.

    A view that was left in uint8, as methods get them in training, stays as it is. Of
    bands the first three are shown, see :data:`OF_BANDS`.
    """
    if getattr(preprocessor, "bands", None) is not None:
        three = [0, 1, 2] if view.shape[-3] > 2 else [0, 0, 0]
        view = view[..., three, :, :] / (2 * _DEVIATIONS) + 0.5
        view = (255 * view).round().clamp(0, 255).byte()
    else:
        view = to_decoded(view, preprocessor)
    return view.movedim(-3, -1).cpu().numpy()


def to_decoded(view: Tensor, preprocessor: Any) -> Tensor:
    """Take the normalisation of a view back: uint8 of RGB, float32 of bands."""
    if not view.is_floating_point():
        return view
    view = view * preprocessor.std + preprocessor.mean
    if getattr(preprocessor, "bands", None) is not None:
        return view
    return view.round().clamp(0, 255).byte()


def to_pixels(image: Tensor, preprocessor: Any) -> np.ndarray:
    """Turn an image as it was decoded, C x H x W, into uint8 H x W x 3."""
    if image.is_floating_point():
        mean, std = preprocessor.mean, preprocessor.std
        return to_images((image.to(mean.device) - mean) / std, preprocessor)
    return image.movedim(0, -1).cpu().numpy()


def warn(text: str) -> None:
    """Log a warning."""
    print_log(text, logger="current", level=logging.WARNING)
