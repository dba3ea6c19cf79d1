"""The images of a folder, a list or shards, read once, one batch after the other."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmssl_ext.datasets import (
    ImageList,
    ImageShards,
    SSLDataset,
    UnreadableImageError,
)
from mmssl_ext.datasets.progress import bar_of
from mmssl_ext.datasets.walk import class_folders
from mmssl_ext.engine.resilience.loading import guard_workers
from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.text import shown

from .data import build_dataset, dataset_of

_FEW = 64  # images for which no worker is started
_MOST_WORKERS = 8
_OF_MANY = "bands="  # in reasons of a setting, which hold for any number of images
View = Callable[[dict[str, Any]], Tensor]


class Images(NamedTuple):
    """Where the images are, and which class each belongs to.

    Attributes:
        dataset: Tells their paths and reads them.
        labels: Class of each image, n, or None.
        classes: Names of the classes; empty without labels.
    """

    dataset: SSLDataset
    labels: np.ndarray | None
    classes: tuple[str, ...]


class Batch(NamedTuple):
    """Some of the images, in the order of the dataset.

    Attributes:
        rows: Numbers in the dataset of those that could be read.
        values: What the view made of each, N x ...; no matter where there are none.
        failed: Number and reason of each of the others.
    """

    rows: list[int]
    values: Tensor
    failed: list[tuple[int, str]]


def open_images(data: str | os.PathLike[str]) -> Images:
    """Find the images.

    Their labels are those of the shards or of the list; in a folder, its folders of the
    first level if all images lie in such.

    Args:
        data: As for :func:`~mmssl_ext.api.data.dataset_of`.

    Raises:
        FileNotFoundError: There is no image in it.
        UserValueError: There is no such place, the list or the shards are damaged, or
            it is an image.
    """
    dataset = build_dataset(dataset_of(data))
    labels, classes = _labels(dataset)
    return Images(dataset, labels, classes if labels is not None else ())


def _labels(dataset: Any) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Class of each image, n, or None, and the names of the classes."""
    if isinstance(dataset, ImageShards):
        numbers = dataset.index.labels
        if numbers.min() < 0:
            return None, ()
        return numbers.astype(np.int64), tuple(dataset.index.classes)
    if isinstance(dataset, ImageList):
        return dataset.labels, tuple(dataset.metainfo.get("classes", ()))
    rows = range(len(dataset))
    if not all("/" in dataset.name(row) for row in rows):
        return None, ()
    classes = tuple(class_folders(dataset.root))  # numbered as by labels="subfolders"
    number = {name: i for i, name in enumerate(classes)}
    labels = (number[dataset.name(row).partition("/")[0]] for row in rows)
    return np.fromiter(labels, np.int64, len(rows)), classes


def path_of(dataset: SSLDataset, row: int) -> str:
    """The path of an image; of one in a shard, that of the shard and its name there."""
    return str(dataset.describe(row)["img_path"])


def read_images(
    dataset: SSLDataset,
    view: View,
    batch_size: int,
    workers: int | None,
    title: str,
) -> Iterator[Batch]:
    """Read all images in their order; a bar shows how far it is.

    At any time a few batches for each worker are in memory, whatever their number. An
    image that cannot be read is logged and stands in ``failed``; of those whose bands
    do not suit the setting the first is logged, and their number.

    Args:
        dataset: Of the images.
        view: Makes a tensor of one size of what the dataset tells of an image.
        batch_size: Images in a batch.
        workers: Processes that read; None chooses, 0 reads in this one.
        title: What stands before the bar.

    Raises:
        UserError: None of the images can be read.
        LoaderError: A worker died.
    """
    if workers is None:
        workers = default_workers(len(dataset))
    items = _Items(dataset, view)
    if workers and len(dataset):
        items[0]  # a package that is missing is said here, by no worker's traceback
    loader: DataLoader = DataLoader(
        items,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )
    batches = iter(guard_workers(loader))  # forks before the bar is drawn
    count, failed, example = len(dataset), 0, ""
    shared: Counter[str] = Counter()
    with bar_of(title, count) as show:
        done = 0
        for batch in batches:
            for row, reason in batch.failed:
                path = shown(path_of(dataset, row))
                example = example or f"'{path}': {reason}"
                shared[reason] += _OF_MANY in reason
                if shared[reason] < 2:
                    _warn(f"The image '{path}' cannot be read: {reason}.")
            failed += len(batch.failed)
            done += len(batch.rows) + len(batch.failed)
            yield batch
            show(done)
    for reason, number in shared.items():
        if number > 1:
            _warn(f"So it is with {number:,} of {count:,} images: {reason}.")
    if failed == count:
        raise UserError(
            f"None of the {count:,} images can be read; of {example}. If they are "
            "not meant to be so, check that they are complete and mounted."
        )


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)


def default_workers(images: int, share: float = 1.0) -> int:
    """Processes that read so many images on a share of the processors."""
    processors = int(len(os.sched_getaffinity(0)) * share)
    return min(max(processors, 1), _MOST_WORKERS) if images > _FEW else 0


def check_count(name: str, value: Any, least: int) -> None:
    """Refuse what is no number of so many.

    Raises:
        UserValueError: It is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserValueError(f"{name}={value!r} must be a whole number from {least}.")


class _Items(Dataset):
    """What a view makes of each image, or why that cannot be."""

    def __init__(self, dataset: SSLDataset, view: View) -> None:
        self.dataset, self.view = dataset, view

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, Tensor | str]:
        told = self.dataset.describe(row)
        try:
            return row, self.view(told | self.dataset.read(row))
        except UnreadableImageError as error:
            start = str(UnreadableImageError(told["img_path"], "")).removesuffix(".")
            return row, str(error).removeprefix(start).removesuffix(".")


def _collate(items: list[tuple[int, Tensor | str]]) -> Batch:
    read = [(row, value) for row, value in items if isinstance(value, Tensor)]
    values = torch.stack([value for _, value in read]) if read else torch.empty(0)
    failed = [(row, value) for row, value in items if isinstance(value, str)]
    return Batch([row for row, _ in read], values, failed)
