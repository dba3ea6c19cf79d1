"""Images that stand in a test set and among those it is judged by."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmssl_ext.datasets.file_copies import MOST_FILES, copied_files
from mmssl_ext.text import shown

from .features import Features

SHARE = 0.01  # of the test images, from which copies are worth a warning


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


def say_copied_files(
    test: Any, training: Any, names: tuple[str, str] = ("test", "training")
) -> bool:
    """Log how many files of a test set are training files, or copies of such.

    Looks at sets of image files that are not too large, and says where they are. Only
    files whose size occurs in both are read.

    Args:
        test: Its dataset.
        training: That of the images learned from.
        names: Of the two sets.

    Returns:
        Whether there are such files.
    """
    if not all(hasattr(dataset, "describe") for dataset in (test, training)):
        return False
    count = len(test) + len(training)
    if count > MOST_FILES:
        print_log(
            f"Whether {names[0]} images are among the {names[1]} images is not looked "
            f"at, for they are {count:,} files, more than {MOST_FILES:,}; "
            "`mmssl-ext duplicates` compares folders of any size.",
            logger="current",
        )
        return False
    copies, looked = copied_files(_paths(test), _paths(training))
    if copies:
        _say(len(copies), looked, names, copies[0], looked < len(test))
    return bool(copies)


def _say(
    count: int,
    size: int,
    names: tuple[str, str],
    example: tuple[str, str],
    sampled: bool = False,
) -> None:
    many = count >= SHARE * size
    what = f"{names[0]} images{' looked at' if sampled else ''}"
    print_log(
        f"{count} of the {size} {what} are also among the {names[1]} "
        f"images, e.g. {shown(example[0])} and {shown(example[1])}"
        + (": their accuracy is that of images seen before." if many else "."),
        logger="current",
        level=logging.WARNING if many else logging.INFO,
    )


def _paths(dataset: Any) -> list[str]:
    return [dataset.describe(row)["img_path"] for row in dataset._rows.tolist()]
