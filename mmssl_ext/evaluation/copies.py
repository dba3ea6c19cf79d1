"""Images that stand in a test set and among those it is judged by."""

from __future__ import annotations

import logging
import os
import stat
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmssl_ext.datasets.reading import MAX_FILE_BYTES
from mmssl_ext.files import sha256
from mmssl_ext.text import shown

from .features import Features

SHARE = 0.01  # of the test images, from which copies are worth a warning
MOST_FILES = 50_000  # that are looked at: one call of the system each
_PART = 4096  # bytes that tell most files of one size apart


def say_copies(query: Features, bank: Features, names: tuple[str, str]) -> None:
    """Log how many images of a test set have the pixels of an image learned from.

    Args:
        query: Of the test set, with digests.
        bank: Of the images learned from, with digests.
        names: Of the two sets, e.g. ``("query", "bank")``.
    """
    if query.digests is None or bank.digests is None:
        return
    found, wanted = bank.digests.numpy(), query.digests.numpy()
    copies = np.flatnonzero(np.isin(wanted, found))
    if len(copies):
        row = int(copies[0])
        twin = int(np.flatnonzero(found == wanted[row])[0])
        pair = query.paths[row], bank.paths[twin]
        _say(len(copies), len(wanted), names, pair)


def say_copied_files(test: Any, training: Any) -> None:
    """Log how many files of a test set are copies of training files, whatever named.

    Looks at sets of image files that are not too large, and reads only files whose
    size occurs in both.
    """
    if not all(hasattr(dataset, "describe") for dataset in (test, training)):
        return
    if len(test) + len(training) > MOST_FILES:
        return
    try:
        sets = [_files(dataset) for dataset in (test, training)]
        sizes = set.intersection(*({size for _, size in files} for files in sets))
        sets = [[file for file in files if file[1] in sizes] for files in sets]
        for digest in (_ends, _whole):
            keyed = [{file: digest(*file) for file in files} for files in sets]
            common = set.intersection(*(set(found.values()) for found in keyed))
            sets = [[f for f, key in found.items() if key in common] for found in keyed]
    except OSError:  # no files of their own, or unreadable: the loader says so
        return
    if sets[0]:
        path = sets[0][0]
        twin = next(f for f, key in keyed[1].items() if key == keyed[0][path])
        _say(len(sets[0]), len(test), ("test", "training"), (path[0], twin[0]))


def _say(
    count: int, size: int, names: tuple[str, str], example: tuple[str, str]
) -> None:
    many = count >= SHARE * size
    print_log(
        f"{count} of the {size} {names[0]} images are also among the {names[1]} "
        f"images, e.g. {shown(example[0])} and {shown(example[1])}"
        + (": their accuracy is that of images seen before." if many else "."),
        logger="current",
        level=logging.WARNING if many else logging.INFO,
    )


def _files(dataset: Any) -> list[tuple[str, int]]:
    """Path and size of each image that is a file; reading a pipe would wait."""
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    found = [(path, os.stat(path)) for path in paths]
    return [
        (path, status.st_size)
        for path, status in found
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES
    ]


def _ends(path: str, size: int) -> tuple[int, bytes]:
    with open(path, "rb") as file:
        first = file.read(_PART)
        file.seek(max(0, size - _PART))
        return size, first + file.read(_PART)


def _whole(path: str, size: int) -> tuple[int, str]:
    return size, sha256(path)
