"""Images that stand in a test set and among those it is judged by."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log

from mmssl_ext.datasets.file_copies import MOST_FILES, copied_files
from mmssl_ext.text import shown

from .features import Features

SHARE = 0.01  # of the test images, from which copies are worth a warning


def say_copies(query: Features, bank: Features, names: tuple[str, str]) -> None:
    """Log how many images of a test set have the pixels of an image learned from.

    Both with digests; ``names`` are those of the sets, e.g. ``("query", "bank")``.
    """
    if query.digests is None or bank.digests is None:
        return
    twins = dict(zip(bank.digests.tolist(), bank.paths, strict=True))
    own = zip(query.digests.tolist(), query.paths, strict=True)
    copies = [(path, twins[digest]) for digest, path in own if digest in twins]
    _say(copies, len(query.paths), names)


def say_copied_files(test: Any, training: Any) -> None:
    """Log how many files of a test set are copies of training files, whatever named.

    Looks at sets of image files that are not too large, and reads only files whose
    size occurs in both.
    """
    known = all(hasattr(dataset, "describe") for dataset in (test, training))
    if not known or len(test) + len(training) > MOST_FILES:
        return
    copies = copied_files(_paths(test), _paths(training))
    _say(copies, len(test), ("test", "training"))


def _say(copies: list[tuple[str, str]], size: int, names: tuple[str, str]) -> None:
    if not copies:
        return
    many = len(copies) >= SHARE * size
    print_log(
        f"{len(copies)} of the {size} {names[0]} images are also among the {names[1]} "
        f"images, e.g. {shown(copies[0][0])} and {shown(copies[0][1])}"
        + (": their accuracy is that of images seen before." if many else "."),
        logger="current",
        level=logging.WARNING if many else logging.INFO,
    )


def _paths(dataset: Any) -> list[str]:
    return [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
