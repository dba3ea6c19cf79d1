"""Masks of subjects from a COCO file, which is looked at before it is believed."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from mmssl_ext.coco import is_numbers, number_of_pixels
from mmssl_ext.errors import UserError
from mmssl_ext.files import sha256
from mmssl_ext.text import shown

from ..listing import name_below
from .masks import MaskError

_SIDES = ("width", "height")
_POLYGONS = "write polygons [[x, y, x, y, ...], ...] or a run-length encoding"


class _Image(NamedTuple):
    """An entry of the file's images."""

    id: int | str
    name: str
    width: int
    height: int


class CocoMasks:
    """Masks of a COCO file: all objects of an image together are its subject.

    An image that the file lists by its base name alone may lie in any folder, if only
    one has that name.

    Args:
        ann_file: The file, with ``segmentation`` as polygons or run lengths.
        root: Of the images, from which the file's ``file_name`` starts.

    Raises:
        MaskError: The file cannot be read, or an entry of it cannot be used.
        UserError: The package pycocotools is missing.
    """

    def __init__(self, ann_file: str, root: str) -> None:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise UserError(
                "Masks of a COCO file need pycocotools: run `pip install pycocotools`."
            ) from error
        self._tools: Any = mask
        self.ann_file, self.root = ann_file, root
        content = self._content()
        self._images: dict[str, _Image] = {}
        self._objects: dict[int | str, list[Any]] = defaultdict(list)
        self._take_images(self._list(content, "images"))
        self._take_objects(self._list(content, "annotations"))

    def __call__(self, path: str, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of an image, None where the file has no object of it."""
        known = self._find(path)
        if known is None or not (objects := self._objects.get(known.id)):
            return None
        width, height = known.width, known.height
        whole = np.zeros((height, width), bool)
        for number, shape in objects:
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                shape = self._tools.frPyObjects(shape, height, width)
            elif number_of_pixels(shape["counts"]) != width * height:
                self._refuse_shape(number, _unfilled(known))
            decoded = self._tools.decode(shape)  # H x W, or H x W x parts
            whole |= decoded.reshape(height, width, -1).any(-1)
        return whole.astype(np.float32)

    def lacking(self, paths: Iterable[str]) -> list[str]:
        """Those of the images of a set that have no object.

        Raises:
            MaskError: Two of them would have the mask of one entry.
        """
        found: list[str] = []
        taken: dict[int | str, str] = {}
        for path in paths:
            known = self._find(path)
            if known is None or not self._objects.get(known.id):
                found.append(path)
                continue
            name, other = name_below(self.root, path), taken.get(known.id)
            if other is not None and other != name:
                self._refuse(
                    f"lists '{shown(known.name)}', which may be '{shown(other)}' or "
                    f"'{shown(name)}'; let file_name start from the folder of the "
                    "images"
                )
            taken[known.id] = name
        return found

    def digest(self) -> str:
        """Which file it is."""
        return sha256(self.ann_file)[:32]

    def wanted(self, path: str) -> str:
        """What was looked for of an image, as a part of a sentence."""
        return f"an object of the file_name '{shown(name_below(self.root, path))}'"

    def _find(self, path: str) -> _Image | None:
        name = name_below(self.root, path)
        base = os.path.basename(name)
        if (found := self._images.get(name)) or base not in self._images:
            return found
        if self._bases[base] > 1:
            self._refuse(
                f"does not list '{shown(name)}', but {self._bases[base]} images called "
                f"'{shown(base)}'; let file_name start from the folder of the images"
            )
        return self._images[base]

    # The file

    def _refuse(self, what: str) -> NoReturn:
        raise MaskError(f"The COCO file of masks '{shown(self.ann_file)}' {what}.")

    def _content(self) -> dict[str, Any]:
        reason = ""
        try:
            content = json.loads(data := Path(self.ann_file).read_bytes())
        except FileNotFoundError:
            reason = "does not exist"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        except json.JSONDecodeError as error:
            place = f"at line {error.lineno}, column {error.colno}"
            reason = f"is no JSON: {error.msg} {place}" if data.strip() else "is empty"
        except (ValueError, RecursionError) as error:
            reason = f"is no JSON: {error}"
        if reason:
            self._refuse(
                f"(seen from '{os.getcwd()}') {reason}; correct masks of LoadMask"
            )
        if not isinstance(content, dict):
            self._refuse(
                'holds no object at its top; write {"images": [...], '
                '"annotations": [...]}'
            )
        return content

    def _list(self, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
        entries = content.get(key)
        if not isinstance(entries, list):
            self._refuse(f"has no list '{key}'; add it")
        for place, entry in enumerate(entries, 1):
            if not isinstance(entry, dict):
                self._refuse(f"has, as number {place} of '{key}', what is no object")
        return entries

    def _key(self, entry: dict[str, Any], what: str, key: str, kind: Any) -> Any:
        """A value of an entry that must be there."""
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, kind):
            said = f"the '{key}' {value!r:.40}" if key in entry else f"no '{key}'"
            self._refuse(f"has {said} in {what}; correct it")
        return value

    def _take_images(self, entries: list[dict[str, Any]]) -> None:
        if not entries:
            self._refuse("lists no image; correct masks of LoadMask")
        seen: dict[int | str, str] = {}
        for place, entry in enumerate(entries, 1):
            name = self._key(entry, f"number {place} of 'images'", "file_name", str)
            what = f"the image '{shown(name)}'"
            number = self._key(entry, what, "id", (int, str))
            size = [self._key(entry, what, k, (int, float)) for k in _SIDES]
            if not all(1 <= side < 1e6 and side == int(side) for side in size):
                self._refuse(
                    f"has a 'width' and 'height' of {size[0]} x {size[1]} in {what}; "
                    "write those of the upright image"
                )
            if name in self._images:
                self._refuse(
                    f"lists '{shown(name)}' twice, with the ids "
                    f"{self._images[name].id} and {number}; keep one of them"
                )
            if number in seen:
                self._refuse(
                    f"gives the id {number} to two images, '{shown(seen[number])}' and "
                    f"'{shown(name)}'; give each its own"
                )
            seen[number] = name
            self._images[name] = _Image(number, name, int(size[0]), int(size[1]))
        self._bases = Counter(map(os.path.basename, self._images))

    def _take_objects(self, entries: list[dict[str, Any]]) -> None:
        images = {image.id: image for image in self._images.values()}
        strange = 0
        for place, entry in enumerate(entries, 1):
            if not (shape := entry.get("segmentation")):
                continue
            number = entry.get("id", f"(number {place})")
            owner = self._key(entry, f"the annotation {number}", "image_id", (int, str))
            if (image := images.get(owner)) is None:
                strange += 1  # of an image that was left out
                continue
            if fault := _fault(shape, image):
                self._refuse_shape(number, fault)
            self._objects[owner].append((number, shape))
        if strange and not self._objects:
            self._refuse(
                f"has {strange} annotations, and their 'image_id' is the 'id' of no "
                "image; correct them"
            )

    def _refuse_shape(self, number: Any, fault: str) -> NoReturn:
        self._refuse(f"has, as 'segmentation' of the annotation {number}, {fault}")


def _unfilled(image: _Image) -> str:
    return (
        f"run lengths that do not fill the {image.height} x {image.width} pixels of "
        f"'{shown(image.name)}'; encode the mask anew"
    )


def _misplaced(polygons: list[list[float]], image: _Image) -> str:
    """What makes nothing of polygons that can be read, as a part of a sentence."""
    sides = (image.width, image.height)
    spans = [
        [(min(part[axis::2]), max(part[axis::2]), sides[axis]) for axis in (0, 1)]
        for part in polygons
    ]
    if all(any(high <= 0 or low >= side for low, high, side in p) for p in spans):
        return (
            f"polygons outside of the {image.width} x {image.height} pixels of "
            f"'{shown(image.name)}'; write points of the upright image"
        )
    if all(low >= 0 and high <= 1 < side for part in spans for low, high, side in part):
        return (
            f"polygons of 0 to 1; write points in pixels of '{shown(image.name)}', not "
            "shares"
        )
    return ""


def _fault(shape: Any, image: _Image) -> str:
    """What of a segmentation cannot be read, as a part of a sentence, or nothing."""
    if isinstance(shape, list):
        if is_numbers(shape):
            return f"one list of numbers; {_POLYGONS}"
        if not all(is_numbers(part) for part in shape):
            return f"a list of what is no list of numbers; {_POLYGONS}"
        odd = next((len(p) for p in shape if len(p) < 6 or len(p) % 2), None)
        if odd is not None:
            return (
                f"a polygon of {odd} numbers; three points or more are [x, y, x, y, x, "
                "y, ...]"
            )
        return _misplaced(shape, image)
    size = shape.get("size") if isinstance(shape, dict) else None
    counts = shape.get("counts") if isinstance(shape, dict) else None
    if not is_numbers(size, 2) or not isinstance(counts, (str, list)):
        return f"neither polygons nor 'size' and 'counts'; {_POLYGONS}"
    if size != [image.height, image.width]:
        return (
            f"run lengths of the 'size' {size}, where '{shown(image.name)}' is "
            f"[{image.height}, {image.width}], its height and width; encode it anew"
        )
    if isinstance(counts, str):
        return ""  # looked at when it is decoded, for that takes its time
    sound = is_numbers(counts) and set(map(type, counts)) <= {int}
    filled = sound and min(counts, default=-1) >= 0
    return "" if filled and sum(counts) == size[0] * size[1] else _unfilled(image)
