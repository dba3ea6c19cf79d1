"""Object proposals by image, from the file that ``tools/make_proposals.py`` writes.

The file is COCO's::

    {"info": {...},                       how the boxes were made
     "images": [{"id": 1, "file_name": "a/b.jpg", "width": 640, "height": 480}, ...],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1,
                      "bbox": [x, y, width, height], "score": 0.7,
                      "area": 1200, "iscrowd": 0}, ...],
     "categories": [{"id": 1, "name": "object"}]}

``file_name`` is relative to the folder of the images, sizes are of the upright image in
pixels, and (x, y) is the upper left corner, so a box spans x to x + width. An image in
which nothing was found is listed without annotation. CCOP and DETReg read one file, and
so does what else reads COCO boxes.
"""

from __future__ import annotations

import json
import os
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import shown

from ..listing import PackedPaths, name_below


class ProposalError(UserValueError):
    """A file of proposals, or what it says of an image, cannot be used."""


class Proposals:
    """Boxes by image, in little memory, which forked workers share.

    Args:
        ann_file: The file.
        root: Folder that its names start from, the ``root`` of the dataset; paths of
            images are taken for names in it.

    Attributes:
        info: How the boxes were made, as the file says.
        counts: Boxes of each image, in the order of their names.

    Raises:
        ProposalError: The file does not exist or is no such file.
    """

    def __init__(
        self, ann_file: str | os.PathLike[str], root: str | os.PathLike[str] = ""
    ) -> None:
        self.ann_file = os.fspath(ann_file)
        self.root = os.fspath(root)
        found = _Reading()
        text = _text_of(self.ann_file)
        try:
            # What is read is packed at once: as objects, the boxes of COCO's train2017
            # would take gigabytes.
            whole = json.loads(text, object_hook=found.take)
            info = whole.get("info") or {} if isinstance(whole, dict) else None
            if not isinstance(info, dict):
                raise ProposalError("it is no COCO JSON")
            if not found.names:
                raise ProposalError("it lists no image")
            self.info: dict[str, Any] = info
            self._pack(found)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ProposalError(
                f"'{shown(self.ann_file)}' is no file of proposals: "
                f"{_reason(error, text)}. Correct it, or write one by "
                "tools/make_proposals.py."
            ) from error

    def __len__(self) -> int:
        return len(self._names)

    def of(
        self, path: str | os.PathLike[str], size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Boxes of an image, n x 4 float32: left, upper, right, lower in pixels.

        Args:
            path: Of the image, or its name in ``root``.
            size: (width, height) of the image as it was read, which is compared.

        Raises:
            ProposalError: The image is not listed, or has another size.
        """
        row = self._row(os.fspath(path))
        if size is not None and tuple(size) != tuple(self._sizes[row]):
            width, height = self._sizes[row].tolist()
            raise ProposalError(
                f"The proposals of '{shown(path)}' in '{shown(self.ann_file)}' are for "
                f"an image of {width} x {height} pixels, but it has {size[0]} x "
                f"{size[1]}; run tools/make_proposals.py on the images that are read."
            )
        return self._boxes[self._starts[row] : self._starts[row + 1]].copy()

    def relative(
        self, path: str | os.PathLike[str], size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Like :meth:`of`, x in units of the image's width and y of its height.

        These are the units of a view's box (:mod:`..transforms.placing`), by which the
        boxes are carried into a view.
        """
        boxes = self.of(path, size)
        width, height = self._sizes[self._row(os.fspath(path))].tolist()
        return boxes / np.array([width, height, width, height], np.float32)

    def _row(self, path: str) -> int:
        name = name_below(self.root, path)
        for known in (name, path):
            row = bisect_left(self._names, known)
            if row < len(self._names) and self._names[row] == known:
                return row
        where = f" below '{shown(self.root)}'" if self.root else ""
        raise ProposalError(
            f"'{shown(self.ann_file)}' lists no proposals of '{shown(name)}'{where}; "
            "its names start from the folder that tools/make_proposals.py was given, "
            "so let root be that folder, or run the tool for these images."
        )

    def _pack(self, found: _Reading) -> None:
        names, ids = found.names, np.array(found.ids, np.int64)
        order = sorted(range(len(names)), key=names.__getitem__)
        self._names = PackedPaths(names[i] for i in order)
        self._sizes = np.array(found.sizes, np.int64).reshape(-1, 2)[order]
        for row in range(1, len(order)):
            if self._names[row] == self._names[row - 1]:
                raise ProposalError(
                    f"it lists '{shown(self._names[row])}' more than once, where one "
                    "entry holds all boxes"
                )
        boxes = np.frombuffer(found.boxes, np.float32).reshape(-1, 4)
        owners = np.frombuffer(found.owners, np.int64)
        by_id = np.argsort(ids, kind="stable")
        if len(np.unique(ids)) < len(ids):
            raise ProposalError("it has one image id twice")
        places = np.searchsorted(ids, owners, sorter=by_id)
        listed = by_id[np.minimum(places, len(ids) - 1)]
        if len(lost := np.flatnonzero(ids[listed] != owners)):
            raise ProposalError(
                f"it has a box of the image {owners[lost[0]]}, which it does not list"
            )
        row_of = np.empty(len(ids), np.int64)
        row_of[order] = np.arange(len(ids))
        rows = row_of[listed]
        sort = np.argsort(rows, kind="stable")  # in the order of the file
        self._boxes = boxes[sort]
        self._check(rows[sort])
        self._boxes[:, 2:] += self._boxes[:, :2]
        self.counts = np.bincount(rows, minlength=len(ids))
        self._starts = np.concatenate([[0], self.counts.cumsum()])

    def _check(self, rows: np.ndarray) -> None:
        """Refuse boxes that are none of their images: x, y, width, height, n x 4."""
        boxes, sizes = self._boxes, self._sizes[rows]
        ends = boxes[:, :2] + boxes[:, 2:]
        if len(boxes) and boxes.max() <= 1 and (boxes % 1).any():
            raise ProposalError(
                "no box of it exceeds 1, so they seem to be fractions of the images; "
                "write pixels"
            )
        # Rounding may take a box out of its image by a pixel.
        inside = (boxes[:, :2] >= -1).all(1) & (ends <= sizes + 1).all(1)
        inside &= (boxes[:, 2:] >= 0).all(1)  # and nothing is NaN
        if len(out := np.flatnonzero(~inside)):
            row, box = rows[out[0]], boxes[out[0]].tolist()
            width, height = self._sizes[row].tolist()
            raise ProposalError(
                f"its box {box} of '{shown(self._names[row])}' does not lie in that "
                f"image of {width} x {height} pixels; a box is [x, y, width, height], "
                "from the upper left corner"
            )


class _Reading:
    """What of a COCO file is kept while it is read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ids, self.sizes = array("q"), array("q")
        self.boxes, self.owners = array("f"), array("q")

    def take(self, found: dict[str, Any]) -> Any:
        """Keep an image or a box, and leave all other objects as they are."""
        if "file_name" in found:
            what = f"the image '{shown(found['file_name'])}'"
            self.names.append(str(found["file_name"]))
            self.ids.append(_whole(found, "id", what))
            sides = [_whole(found, side, what) for side in ("width", "height")]
            if min(sides) < 1:
                raise ProposalError(f"{what} has {sides[0]} x {sides[1]} pixels")
            self.sizes.extend(sides)
            return None
        if "bbox" in found and "image_id" in found:
            self.owners.append(_whole(found, "image_id", "a box"))
            try:
                x, y, width, height = found["bbox"]
                self.boxes.extend((x, y, width, height))
            except (TypeError, ValueError):
                raise ProposalError(
                    f"a box of the image {found['image_id']} is {found['bbox']!r}, not "
                    "the four numbers [x, y, width, height]"
                ) from None
            return None
        return found


def _whole(found: dict[str, Any], key: str, what: str) -> int:
    if key not in found:
        raise ProposalError(f"{what} has no {key}")
    value = found[key]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise ProposalError(f"{what} has the {key} {value!r}, which is no whole number")
    return value


def _reason(error: Exception, text: bytes) -> str:
    """Why a file cannot be used."""
    if isinstance(error, ProposalError):
        return str(error)
    if not text.strip():
        return "it is empty"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON from line {error.lineno}, column {error.colno} on"
    if isinstance(error, UnicodeEncodeError):
        return "it has a name that no file can have"
    return "it is no COCO JSON"


def _text_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ProposalError(
            f"The file of proposals '{shown(path)}' (seen from '{os.getcwd()}') cannot "
            f"be read: {error.strerror}. tools/make_proposals.py writes it."
        ) from error
