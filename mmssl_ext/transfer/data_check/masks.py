"""Check of the masks in an annotation file of COCO's format.

The C code of pycocotools does not look at them: run lengths that do not fill an image
leave what was in the memory before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from mmssl_ext.coco import is_numbers, number_of_pixels

from .source import Source, spread

NUM_MASKS = 500  # run lengths that are decoded, polygons that are compared with boxes
_UNFILLED = "a run-length encoding that does not fill its size"


def check_masks(
    source: Source, file: str, annotations: Sequence[tuple[dict, dict]]
) -> list[bool]:
    """Look at the form of every mask, and closer at a sample.

    Args:
        source: The data set.
        file: Path of the annotation file.
        annotations: Each with its image.

    Returns:
        For each annotation whether mmdet takes its mask; those that it does not take
        are neither learnt nor scored. What nothing can read is a problem.
    """
    usable = [True] * len(annotations)
    steps = [s for s in source.cfg.get("pipeline") or [] if isinstance(s, dict)]
    # Run lengths are read to pixels alone, and ignored otherwise.
    polygons_only = any(step.get("poly2mask") is False for step in steps)
    wrong: dict[str, list[Any]] = {}
    dropped: list[Any] = []
    polygons: list[dict] = []
    compressed: list[dict] = []
    for i, (annotation, image) in enumerate(annotations):
        mask: Any = annotation.get("segmentation")
        if fault := _fault(mask, image):
            wrong.setdefault(fault, []).append(annotation["id"])
        elif isinstance(mask, dict):
            usable[i] = not polygons_only
            if isinstance(mask["counts"], str):
                compressed.append(annotation)
        elif bad := [part for part in mask if len(part) < 6 or len(part) % 2]:
            dropped.append(annotation["id"])
            usable[i] = len(bad) < len(mask)
        else:
            polygons.append(annotation)
    for annotation in spread(compressed, NUM_MASKS):
        mask = annotation["segmentation"]
        if number_of_pixels(mask["counts"]) != mask["size"][0] * mask["size"][1]:
            wrong.setdefault(_UNFILLED, []).append(annotation["id"])
    for fault, ids in wrong.items():
        source.problem(
            f"{len(ids)} annotations in {file} have {fault}, the first has the id "
            f"{ids[0]}, but the pipeline loads masks (with_mask=True). Give every "
            "annotation a segmentation [[x, y, x, y, ...], ...] or a run-length "
            "encoding, or use a config without mask head."
        )
    if dropped and not wrong:
        source.notice(
            f"{len(dropped)} annotations in {file} have polygons of less than three "
            "points or of an odd number of coordinates, which are left out; the first "
            f"has the id {dropped[0]}."
        )
    _compare_with_boxes(source, file, spread(polygons, NUM_MASKS))
    return usable


def _compare_with_boxes(source: Source, file: str, sample: list[dict]) -> None:
    """Polygons in other units, or with x and y exchanged, do not lie in their boxes."""
    apart = [a["id"] for a in sample if _overlap(a["segmentation"], a["bbox"]) < 0.25]
    if 2 * len(apart) > len(sample):
        source.notice(
            f"{len(apart)} of {len(sample)} polygons looked at in {file} do not cover "
            f"their boxes, the first has the id {apart[0]}: a polygon is "
            "[x, y, x, y, ...] in pixels."
        )


def _overlap(polygons: list[list[float]], box: list[float]) -> float:
    """Intersection over union of a box with that around polygons."""
    points = np.concatenate(polygons).reshape(-1, 2)
    around = torch.tensor([[*points.min(0), *points.max(0)]], dtype=torch.float64)
    given = box_convert(torch.tensor([box], dtype=torch.float64), "xywh", "xyxy")
    return float(box_iou(around, given))


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
    height, width = image["height"], image["width"]
    if size != [height, width]:
        return (
            "a run-length encoding of another size than the 'height' and 'width' of "
            "the image"
        )
    lengths = counts if isinstance(counts, list) else [height * width]
    if not is_numbers(lengths) or min(lengths, default=0) < 0:
        return _UNFILLED
    return "" if sum(lengths) == height * width else _UNFILLED
