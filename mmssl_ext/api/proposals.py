"""Boxes that may hold an object in every image of a folder, as one COCO file.

Two methods, none of which needs labels or weights. ``superpixels`` is part of this
package (:mod:`mmssl_ext.datasets.proposals.superpixels`), takes some 0.02 s of
processor an image, and is no selective search: see there. ``selective-search`` is
OpenCV's in its fast mode, with which CCOP and DETReg were published; it needs
opencv-contrib-python-headless in place of the OpenCV that is installed.

How many of the true boxes one of at most 50 superpixel boxes meets (IoU 0.5), beside as
many random boxes that pass the same filter: 35 % and 14 % of 4,102 cells on 324
photographs of blood (640 x 480 pixels); 45 % and 47 % of 83 objects on 40 demo scenes
of 96 x 96 pixels, where random boxes are as good. On 40 other demo scenes selective
search met 55 of 77 objects with 13 boxes an image, superpixels 35 with 29; on
photographs they have not been compared.

Images are done one by one and what is found is kept beside the file that is to be,
``FILE.partial``, so that the same call goes on where another one was stopped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from mmssl_ext.datasets import DecodeImage, SSLDataset
from mmssl_ext.datasets.identity import identify
from mmssl_ext.datasets.proposals import Proposals
from mmssl_ext.datasets.proposals.find import Settings, find_boxes
from mmssl_ext.datasets.proposals.journal import Journal, mark_of
from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.files import drafted, path_named
from mmssl_ext.text import shown, tenths

from .images import check_count, open_images, read_images

__all__ = ["ProposalFile", "make_proposals"]

_FEW = 4  # images for which no worker is started


class ProposalFile(NamedTuple):
    """What :func:`make_proposals` returns.

    Attributes:
        path: The file.
        images: Listed in it.
        boxes: In all of them.
        empty: Images without a box, which are listed too.
        unreadable: Name of each other image, and why it cannot be read.
    """

    path: str
    images: int
    boxes: int
    empty: int
    unreadable: list[tuple[str, str]]


def make_proposals(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    workers: int | None = None,
    **settings: Any,
) -> ProposalFile:
    """Find boxes in all images and write them.

    The boxes of an image follow from its pixels, its name and the settings, whatever
    the number of processes and however often the work was stopped.

    Args:
        data: As for :func:`embed`.
        out: The file to write, JSON. A file that is complete stays as it is.
        workers: Processes; None takes one for each processor.
        **settings: Fields of
            :class:`~mmssl_ext.datasets.proposals.find.Settings`: ``method``,
            ``max_boxes``, ``min_side``, ``max_aspect``, ``iou``, ``long_side``,
            ``seed``.

    Raises:
        UserError: An option cannot be used, no image can be read, or ``out`` is a file
            of other images or settings.
        FileNotFoundError: There is no such data.
    """
    wanted = Settings.of(settings)
    wanted.check()
    if workers is not None:
        check_count("workers", workers, 0)
    path = Path(path_named("out", out))
    if path.suffix != ".json" or os.path.isdir(path):
        raise UserValueError(
            f"'{shown(out)}' must be a file that ends in .json, COCO's format."
        )
    dataset = open_images(data).dataset
    names = list(dict.fromkeys(map(dataset.name, range(len(dataset)))))
    info = {
        "description": "object proposals without labels, by mmssl_ext",
        "settings": wanted.told(),
        "images": dataset.fingerprint(),
        "content": _content(dataset),
    }
    if os.path.exists(path):
        return _complete(path, info)
    with Journal(path, wanted) as journal:
        journal.forget(dataset)
        unreadable = _find(dataset, journal, wanted, workers)
        kept = [name for name in names if name in journal.places]
        found = _write(path, kept, journal, {**info, "unreadable": unreadable})
    return found


def _complete(path: Path, info: dict[str, Any]) -> ProposalFile:
    """What a file says that is there already."""
    found = Proposals(path)
    known = {"settings": "other settings", "images": "other images"}
    if "content" in found.info:
        known["content"] = "the images before they were changed"
    for key, what in known.items():
        if found.info.get(key) != info[key]:
            raise UserValueError(
                f"'{shown(path)}' is there already, and is of {what}; choose another "
                "name, or delete it first."
            )
    broken = [(name, reason) for name, reason in found.info["unreadable"]]
    boxes, empty = int(found.counts.sum()), int((found.counts == 0).sum())
    return ProposalFile(str(path), len(found), boxes, empty, broken)


def _find(
    dataset: SSLDataset, journal: Journal, settings: Settings, workers: int | None
) -> list[tuple[str, str]]:
    """Fill the journal; returns the images that cannot be read."""
    rest, seen = [], set(journal.places)
    for row in range(len(dataset)):
        if (name := dataset.name(row)) not in seen:
            rest.append(row)
            seen.add(name)
    failed: list[tuple[str, str]] = []
    if not rest:
        return failed
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if len(rest) > _FEW else 0
    todo = _Rest(dataset, rest)
    report = tenths(print, "Proposals: image")
    if sys.stderr.isatty():  # a bar is drawn
        report = lambda done, total: None  # noqa: E731
    try:
        for done, batch in enumerate(
            read_images(todo, _View(settings), 1, workers, "Proposals"), 1
        ):
            failed += [(todo.name(row), reason) for row, reason in batch.failed]
            for row, values in zip(batch.rows, batch.values.numpy(), strict=False):
                journal.add(todo.name(row), values, mark_of(todo, row))
            report(done, len(rest))
    except KeyboardInterrupt:
        text = f"{len(journal.places):,} of {len(dataset):,} images are done and kept"
        print_log(f"{text}; the same command goes on.", "current", logging.WARNING)
        raise
    except UserError:
        if len(failed) < len(rest) or not journal.places:
            raise
    return failed


class _Rest(SSLDataset):
    """Some rows of a dataset, and what each is named."""

    def __init__(self, whole: SSLDataset, rows: list[int]) -> None:
        super().__init__(len(rows))
        self._whole, self._places = whole, rows

    def name(self, row: int) -> str:
        return self._whole.name(self._places[row])

    def file_size(self, row: int) -> int:
        return self._whole.file_size(self._places[row])

    def file_head(self, row: int, most: int) -> bytes:
        return self._whole.file_head(self._places[row], most)

    def describe(self, row: int) -> dict[str, Any]:
        return {**self._whole.describe(self._places[row]), "name": self.name(row)}

    def read(self, row: int) -> dict[str, Any]:
        return self._whole.read(self._places[row])


def _content(dataset: SSLDataset) -> str:
    """What all images together are told from others by."""
    identity = identify(dataset, labelled=False)
    assert identity is not None
    return str(identity["digest"])


class _View:
    """Size of an image, its boxes and their scores: 1 + n rows of 5, in float64."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def __call__(self, told: dict[str, Any]) -> Tensor:
        # Workers decode by threads of their own; a process for each processor is meant.
        cv2.setNumThreads(1)
        img = DecodeImage()({k: v for k, v in told.items() if k != "name"})["img"]
        boxes, scores = find_boxes(img, told["name"], self.settings)
        rows = np.zeros((1 + len(boxes), 5))
        rows[0, :2] = img.shape[1], img.shape[0]
        rows[1:, :4], rows[1:, 4] = boxes, scores
        return torch.from_numpy(rows)


def _write(
    path: Path, names: list[str], journal: Journal, info: dict[str, Any]
) -> ProposalFile:
    """Write the file in one step, and remove the journal."""
    boxes = sum(len(found["boxes"]) for found in journal.read(names))
    empty = sum(not found["boxes"] for found in journal.read(names))
    info = {**info, "without_proposals": empty}
    with drafted(path, durable=True) as draft, draft.open("w", encoding="ascii") as out:
        out.write(f'{{"info": {json.dumps(info)},\n"images": [\n')
        _put(out, (_image(n, x) for n, x in enumerate(journal.read(names), 1)))
        out.write('],\n"annotations": [\n')
        _put(out, _annotations(journal.read(names)))
        out.write('],\n"categories": [{"id": 1, "name": "object"}]}\n')
    with contextlib.suppress(FileNotFoundError):
        journal.path.unlink()
    return ProposalFile(str(path), len(names), boxes, empty, info["unreadable"])


def _put(out: Any, items: Iterator[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        out.write(f"{',' if number else ''}{json.dumps(item)}\n")


def _image(number: int, found: dict[str, Any]) -> dict[str, Any]:
    size = {key: found[key] for key in ("width", "height")}
    return {"id": number, "file_name": found["name"], **size}


def _annotations(images: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    count = 0
    for number, found in enumerate(images, 1):
        for box, score in zip(found["boxes"], found["scores"], strict=True):
            left, upper, right, lower = box
            width, height = right - left, lower - upper
            count += 1
            yield {
                **{"id": count, "image_id": number, "category_id": 1},
                **{"bbox": [left, upper, width, height], "score": score},
                **{"area": width * height, "iscrowd": 0},
            }
