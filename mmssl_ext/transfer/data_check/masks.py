"""Check of the masks in an annotation file of COCO's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Findings, Source, spread
from .json import is_numbers

NUM_RLES = 500  # compressed masks that are decoded
NUM_POLYGONS = 500  # compared with their boxes


def reads_masks(source: Source) -> bool:
    """Whether the pipeline of a data set loads masks."""
    pipeline = source.cfg.get("pipeline") or []
    return any(isinstance(step, dict) and step.get("with_mask") for step in pipeline)


def check_masks(
    source: Source,
    findings: Findings,
    path: Path,
    images: Mapping[Any, dict],
    annotations: list[dict],
    used: Mapping[Any, str],
) -> list[bool]:
    """Look at the form of every mask, and into a sample of compressed ones.

    Args:
        source: The data set.
        findings: Receives problems and notices.
        path: The annotation file.
        images: The images by their ids.
        annotations: All of the file.
        used: The categories that are used, by their ids.

    Returns:
        For each annotation whether mmdet takes its mask; those that it does not take
        are neither learnt nor scored. What nothing can read is a problem.
    """
    usable = [True] * len(annotations)
    polygons = _reads_polygons_only(source)
    whole: list[dict] = []
    wrong: dict[str, list[str]] = {}
    compressed: list[dict] = []
    dropped: list[str] = []
    for position, annotation in enumerate(annotations):
        image = images.get(annotation["image_id"])
        if image is None or annotation["category_id"] not in used:
            continue
        mask: Any = annotation.get("segmentation")
        fault = _fault(mask, image)
        if fault:
            wrong.setdefault(fault, []).append(f"the id {annotation['id']}")
        elif isinstance(mask, dict):
            usable[position] = not polygons
            if isinstance(mask["counts"], str):
                compressed.append(annotation)
        elif bad := [part for part in mask if len(part) < 6 or len(part) % 2]:
            dropped.append(f"the id {annotation['id']}")
            usable[position] = len(bad) < len(mask)
        else:
            whole.append(annotation)
    for annotation in spread(compressed, NUM_RLES):
        mask = annotation["segmentation"]
        if _length(mask["counts"]) != mask["size"][0] * mask["size"][1]:
            fault = "a run-length encoding that does not fill its size"
            wrong.setdefault(fault, []).append(f"the id {annotation['id']}")
    _report(source, findings, path, wrong, dropped)
    _compare_with_boxes(source, findings, path, spread(whole, NUM_POLYGONS))
    return usable


def _report(
    source: Source,
    findings: Findings,
    path: Path,
    wrong: Mapping[str, list[str]],
    dropped: list[str],
) -> None:
    for fault, ids in wrong.items():
        findings.problem(
            source.place,
            f"{len(ids)} annotations in {path} have {fault}, the first has {ids[0]}, "
            "but the pipeline loads masks (with_mask=True). Give every annotation a "
            "segmentation [[x, y, x, y, ...], ...] or a run-length encoding, or use a "
            "config without mask head.",
        )
    if dropped and not wrong:
        findings.notice(
            source.place,
            f"{len(dropped)} annotations in {path} have polygons of less than three "
            "points or of an odd number of coordinates, which are left out; the first "
            f"has {dropped[0]}.",
        )


def _reads_polygons_only(source: Source) -> bool:
    """Mmdet takes run-length encodings to pixels alone, and ignores them otherwise."""
    pipeline = source.cfg.get("pipeline") or []
    return any(isinstance(s, dict) and s.get("poly2mask") is False for s in pipeline)


def _compare_with_boxes(
    source: Source, findings: Findings, path: Path, annotations: list[dict]
) -> None:
    """Polygons in other units, or with x and y exchanged, do not lie in their boxes."""
    apart: list[dict] = []
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        xs, ys = (
            [v for part in annotation["segmentation"] for v in part[start::2]]
            for start in (0, 1)
        )
        across = min(max(xs), x + width) - max(min(xs), x)
        down = min(max(ys), y + height) - max(min(ys), y)
        both = max(across, 0) * max(down, 0)
        area = width * height + (max(xs) - min(xs)) * (max(ys) - min(ys)) - both
        if both < 0.25 * area:
            apart.append(annotation)
    if 2 * len(apart) > len(annotations):
        findings.notice(
            source.place,
            f"{len(apart)} of {len(annotations)} polygons looked at in {path} do not "
            f"cover their boxes, the first has the id {apart[0]['id']}: a polygon is "
            "[x, y, x, y, ...] in pixels.",
        )


def _fault(mask: Any, image: dict) -> str:
    """What makes a mask unreadable, ``""`` for none."""
    if not mask:
        return "no 'segmentation'"
    if isinstance(mask, list):
        if all(is_numbers(part) for part in mask):
            return ""
        if is_numbers(mask):
            return "a 'segmentation' [x, y, ...] where a list of polygons belongs"
        return "a 'segmentation' that is no list of polygons"
    size = mask.get("size") if isinstance(mask, dict) else None
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if not is_numbers(size, 2) or not isinstance(counts, (str, list)):
        return "a 'segmentation' that is neither polygons nor size and counts"
    assert isinstance(size, list)
    if size != [image["height"], image["width"]]:
        return (
            "a run-length encoding of another size than the 'height' and 'width' of "
            "the image"
        )
    if isinstance(counts, list) and not (
        is_numbers(counts)
        and all(count >= 0 for count in counts)
        and sum(counts) == size[0] * size[1]
    ):
        return "a run-length encoding that does not fill its size"
    return ""


def _length(counts: str) -> int:
    """Number of pixels that COCO's compressed run lengths fill; -1 for a bad code.

    pycocotools does not look: it returns what lies in the memory instead.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return -1
        value |= (code & 31) << shift
        shift += 5
        if not code & 32:  # the last piece of a number
            if code & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    return sum(lengths) if not shift and min(lengths, default=0) >= 0 else -1
