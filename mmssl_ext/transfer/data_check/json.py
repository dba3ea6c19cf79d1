"""Read an annotation file in COCO's format, or say what is wrong with it.

pycocotools asks for nothing and ends in a KeyError, or in the memory of others: what it
and mmdet index, add and compare is looked at before.
"""

from __future__ import annotations

import functools
import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

from mmssl_ext.coco import is_numbers

from .source import Fault, listed

_ID, _TEXT, _NUMBER = "a number or text", "text", "a number below a trillion"
_BOX = "a list of four numbers [x, y, width, height]"
_FLAG = "0 or 1"  # may be missing; null counts as 0
_KINDS = {
    "images": {"id": _ID, "file_name": _TEXT, "height": _NUMBER, "width": _NUMBER},
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": _BOX,
        "area": _NUMBER,
        "iscrowd": _FLAG,
        "ignore": _FLAG,
    },
    "categories": {"id": _ID, "name": _ID},
}
_ASK = "Name a COCO annotation file by ann_file."


@functools.cache
def read_coco(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what a file holds, and sentences on entries that cannot be read.

    COCO's own file takes gigabytes: call ``read_coco.cache_clear`` when all is done.

    Raises:
        Fault: It has not the lists that belong to the format.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # halves the time for COCO's millions of small lists
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Fault(
            f"{path} is not text in UTF-8: {error}. Unpack it if it is an archive, or "
            "save it as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:  # also for a byte order mark
        raise Fault(f"{path} is not valid JSON: {error}. {_ASK}") from None
    finally:
        if was_enabled:
            gc.enable()
    faults: list[str] = []
    for name in _KINDS:
        part = content.get(name) if isinstance(content, dict) else None
        if name == "annotations" and part is None and isinstance(content, dict):
            continue
        if not isinstance(part, list) or not all(isinstance(p, dict) for p in part):
            keys = listed(content) if isinstance(content, dict) else "no keys"
            raise Fault(
                f"{path} is not in COCO's format: it has no list of '{name}' (found: "
                f"{keys}). {_ASK}"
            )
        faults += _faults(path, name, part)
    if not content["images"]:
        raise Fault(f"{path} lists no images: the split is empty.")
    return content, faults


def _faults(path: Path, name: str, entries: list[dict]) -> list[str]:
    """Sentences on entries that mmdet or pycocotools cannot read, or takes wrongly."""
    found = []
    for key, kind in _KINDS[name].items():
        wrong = [e[key] for e in entries if key in e and not _is(e[key], kind)]
        if wrong:
            found.append(
                f"{path}: the '{key}' of {len(wrong)} {name} is not {kind}; the first "
                f"is {repr(wrong[0])[:80]}. Correct the file."
            )
        without = [e for e in entries if key not in e and kind != _FLAG]
        if without:
            found.append(
                f"{len(without)} {name} in {path} have no '{key}', the first has the "
                f"id {without[0].get('id')}. Add it to each."
            )
    if found:
        return found
    counts = Counter(entry["id"] for entry in entries)
    if counts and (double := counts.most_common(1)[0])[1] > 1:  # the last would win
        found.append(
            f"{path}: the ids of {name} are not unique, {double[0]} occurs "
            f"{double[1]} times. Number them anew."
        )
    elif len({isinstance(number, str) for number in counts}) > 1:  # cannot be sorted
        found.append(
            f"{path}: the ids of {name} are numbers in part, and text in part."
        )
    return found


def _is(value: Any, kind: str) -> bool:
    if kind == _BOX:
        return is_numbers(value, 4)
    if kind == _NUMBER:  # neither NaN, infinite, nor too long for a float
        return isinstance(value, (int, float)) and -1e12 < value < 1e12
    if kind == _FLAG:  # the text "0" would count as true
        return value is None or value in (0, 1)
    return isinstance(value, str) or (kind == _ID and isinstance(value, (int, float)))
