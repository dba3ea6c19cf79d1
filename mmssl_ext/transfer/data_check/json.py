"""Read an annotation file in COCO's format, or say what is wrong with it."""

from __future__ import annotations

import codecs
import functools
import gc
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .base import listed

# What may stand where; upstream indexes, adds and compares these.
_ID, _TEXT, _NUMBER = "a number or text", "text", "a number below a trillion"
_FLAG = "0 or 1"  # null counts as 0
_KINDS = {
    "images": {"id": _ID, "file_name": _TEXT, "height": _NUMBER, "width": _NUMBER},
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "area": _NUMBER,
        "iscrowd": _FLAG,
        "ignore": _FLAG,
    },
    "categories": {"id": _ID, "name": _ID},
}
# How the file begins -> what it is. pycocotools reads plain UTF-8 only.
_STARTS = {
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"PK\x03\x04": "is a zip archive; unpack it",
    codecs.BOM_UTF8: "begins with a byte order mark; save it as UTF-8 without BOM",
    codecs.BOM_UTF16_LE: "is UTF-16; save it as UTF-8 without BOM",
    codecs.BOM_UTF16_BE: "is UTF-16; save it as UTF-8 without BOM",
}
_ASK = "Name a COCO annotation file by ann_file."


@functools.cache
def read_coco(path: Path) -> tuple[list, list | None, list] | str:
    """Images, annotations and categories, or the sentence on what is wrong.

    COCO's own file takes gigabytes: call ``read_coco.cache_clear`` when all is done.
    """
    data = path.read_bytes()
    for start, what in _STARTS.items():
        if data.startswith(start):
            return f"{path} {what}."
    was_enabled = gc.isenabled()
    gc.disable()  # halves the time for COCO's millions of small lists
    try:
        content = json.loads(data)
    except UnicodeDecodeError as error:
        return f"{path} is not in UTF-8: {error}. Save it as UTF-8 without BOM."
    except (ValueError, RecursionError) as error:
        return f"{path} is not valid JSON: {error}. {_ASK}"
    finally:
        if was_enabled:
            gc.enable()
    parts: list[Any] = []
    for name, kinds in _KINDS.items():
        part = content.get(name) if isinstance(content, dict) else None
        parts.append(part)
        if name == "annotations" and part is None and isinstance(content, dict):
            continue
        if not isinstance(part, list) or not all(isinstance(p, dict) for p in part):
            keys = listed(content) if isinstance(content, dict) else "no keys"
            return (
                f"{path} is not in COCO's format: it has no list of '{name}' (found: "
                f"{keys}). {_ASK}"
            )
        for key, kind in kinds.items():
            wrong = [p[key] for p in part if key in p and not _is(p[key], kind)]
            if wrong:
                return (
                    f"{path}: the '{key}' of {len(wrong)} {name} is not {kind}; the "
                    f"first is {repr(wrong[0])[:80]}. Correct the file."
                )
    return parts[0], parts[1], parts[2]


def _is(value: Any, kind: str) -> bool:
    if kind == _NUMBER:  # neither NaN, infinite, nor too long for a float
        return isinstance(value, (int, float)) and -1e12 < value < 1e12
    if kind == _FLAG:  # the text "0" would count as true
        return value is None or value in (0, 1)
    return isinstance(value, str) or (kind == _ID and isinstance(value, (int, float)))


def is_numbers(value: Any, length: int | None = None) -> bool:
    """Whether a value is a list of (so many) finite numbers below a trillion.

    COCO has 34 million of them, so nothing is called for each.
    """
    return (
        isinstance(value, list)
        and (length is None or len(value) == length)
        and set(map(type, value)) <= {int, float}
        and (not value or (min(value) > -1e12 and max(value) < 1e12))
        and sum(value) == sum(value)  # not NaN, which min and max may pass over
    )


def lacking(path: Path, name: str, items: list[dict], keys: Iterable[str]) -> list[str]:
    """Sentences on keys that are missing, where mmdet would stop with a KeyError."""
    found = []
    for key in keys:
        if without := [item for item in items if key not in item]:
            found.append(
                f"{len(without)} {name} in {path} have no '{key}', the first has "
                f"the id {without[0].get('id')}. Add it to each."
            )
    return found


def repeated(path: Path, name: str, ids: Iterable[Any]) -> list[str]:
    """A sentence on ids that are not unique, or cannot be sorted.

    Of equal ones the last would win.
    """
    counts = Counter(ids)
    if counts and (double := counts.most_common(1)[0])[1] > 1:
        return [
            f"{path}: the ids of {name} are not unique, {double[0]} occurs "
            f"{double[1]} times. Number them anew."
        ]
    if len({isinstance(number, str) for number in counts}) > 1:
        return [f"{path}: the ids of {name} are numbers in part, and text in part."]
    return []


def malformed(path: Path, annotations: list[dict]) -> list[str]:
    """Sentences on annotations that mmdet cannot read."""
    keys = ("id", "image_id", "category_id", "bbox", "area")
    found = lacking(path, "annotations", annotations, keys)
    boxes = [a["bbox"] for a in annotations if "bbox" in a]
    if wrong := [box for box in boxes if not is_numbers(box, 4)]:
        found.append(
            f"{len(wrong)} annotations in {path} have a 'bbox' that is not a list of "
            f"four numbers [x, y, width, height]; the first is {repr(wrong[0])[:80]}."
        )
    return found + repeated(path, "annotations", (a.get("id") for a in annotations))
