"""Count the objects that mmdet trains on and scores, by the rules of its loader."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .base import Findings, Source, listed

# Why an annotation is no object to train on -> what is said of those, what to do.
CAUSES = {
    "stray": (
        "belong to an image that it does not list",
        "Let 'image_id' be the 'id' of an image, of the same type.",
    ),
    "unknown": (
        "have a category_id that 'categories' does not list",
        "Let 'category_id' be the 'id' of a category, of the same type.",
    ),
    "other": (
        "are of a category that is not in `classes`",
        "Check ann_file and the variable `classes`.",
    ),
    "ignored": ("are marked by 'ignore'", "Set 'ignore' to 0."),
    "outside": (
        "lie outside of their image",
        "A box is [x, y, width, height] in pixels, from the upper left corner; so are "
        "'width' and 'height' of the image.",
    ),
    "area": ("have an area of 0 or below", "Write the true 'area' in pixels."),
    "small": (
        "are less than one pixel wide or high",
        "A box is [x, y, width, height] in pixels: multiply relative ones by the size "
        "of the image.",
    ),
    "relative": (
        "lie within the first pixel",
        "The corners of a bndbox are pixels: multiply relative ones by the size of the "
        "image.",
    ),
    "mask": (
        "have no usable mask",
        "A polygon has three points or more, each of x and y.",
    ),
    "crowd": (
        "have iscrowd=1, which marks regions that are neither learnt nor scored",
        "Set 'iscrowd' to 0 for single objects.",
    ),
    "difficult": ("are marked difficult", "Set <difficult> to 0."),
}
_GEOMETRY = ("outside", "area", "small", "relative")  # faults of the box itself
_DOUBLES = 0.01  # COCO's own files have fewer
_NUM_CORNERS = 10  # so many boxes tell a list of corners from sizes


@dataclass
class Objects:
    """What became of the annotations of a data set.

    Attributes:
        file: What was read, for the sentences.
        classes: Names of the classes.
        total: Number of annotations.
        images: Number of images that were looked at.
        counts: Objects of each class.
        left_out: Number of annotations by cause, and by class and cause.
        first: Image and box of the first annotation of each cause.
        with_objects: Images that have any object.
        beyond: Boxes that are used, but leave their image.
        corners: As many of the boxes would be sound as [x1, y1, x2, y2].
        used: Annotations of a class whose image is listed.
        complete: The whole data set was read, not a sample.
    """

    file: str
    classes: tuple[str, ...]
    total: int = 0
    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_of: dict[str, Counter[str]] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    with_objects: set[Any] = field(default_factory=set)
    beyond: int = 0
    corners: int = 0
    used: int = 0
    complete: bool = True

    def leave_out(self, cause: str, example: str, name: str = "") -> None:
        """Count an annotation that is no object."""
        self.left_out[cause] += 1
        self.first.setdefault(cause, example)
        if name:
            self.left_out_of.setdefault(name, Counter())[cause] += 1


def count_coco(
    file: str,
    images: Mapping[Any, dict],
    annotations: list[dict],
    names: Mapping[Any, str],
    classes: tuple[str, ...],
    has_mask: Sequence[bool] | None,
) -> Objects:
    """Apply the rules of mmdet's ``CocoDataset`` to every annotation.

    Args:
        file: Path of the file, for the sentences.
        images: The images by their ids.
        annotations: Well-formed ones.
        names: Of all categories, by their ids.
        classes: Names of the classes that are used.
        has_mask: For each annotation, whether its mask can be used; None where no masks
            are read.
    """
    found = Objects(file, classes, len(annotations), len(images))
    wanted = set(classes)
    for position, annotation in enumerate(annotations):
        x, y, width, height = box = annotation["bbox"]
        image = images.get(annotation["image_id"])
        if image is None:
            example = f"image_id {annotation['image_id']!r}"
            found.leave_out("stray", example)
            continue
        name = names.get(annotation["category_id"])
        if name not in wanted:
            cause = "unknown" if name is None else "other"
            found.leave_out(cause, f"category_id {annotation['category_id']!r}")
            continue
        found.used += 1
        image_width, image_height = image["width"], image["height"]
        found.corners += (-1 <= x < width <= image_width + 1) and (
            -1 <= y < height <= image_height + 1
        )
        usable = has_mask is None or has_mask[position]
        cause = _cause(annotation, image, usable)
        if cause:
            found.leave_out(cause, f"{image['file_name']}, box {box}", name)
            continue
        found.counts[name] += 1
        found.with_objects.add(annotation["image_id"])
        # One pixel beyond the border comes from counting from 1, or from rounding.
        right, lower = x + width, y + height
        if right > image_width + 1 or lower > image_height + 1 or min(x, y) < -1:
            found.beyond += 1
            found.first.setdefault("beyond", f"{image['file_name']}, box {box}")
    return found


def _cause(annotation: dict, image: dict, has_mask: bool) -> str:
    """Why mmdet does not train on an annotation, ``""`` where it does."""
    x, y, width, height = annotation["bbox"]
    if annotation.get("ignore"):
        return "ignored"
    if width < 1 or height < 1:
        return "small"
    across = min(x + width, image["width"]) > max(x, 0)
    if not across or min(y + height, image["height"]) <= max(y, 0):
        return "outside"
    if annotation["area"] <= 0:
        return "area"
    if not has_mask:
        return "mask"
    return "crowd" if annotation.get("iscrowd") else ""


def report_objects(source: Source, findings: Findings, found: Objects) -> None:
    """Say where a data set has no object at all, or loses some."""
    verb = "learnt from" if source.training else "scored"
    if not found.counts:
        _report_none(source, findings, found, verb)
        return
    if _are_corners(found):
        number = found.beyond + found.left_out["outside"]
        findings.problem(
            source.place,
            f"The boxes in {found.file} seem to be corners [x1, y1, x2, y2]: as [x, y, "
            f"width, height], as COCO has it, {number} of {found.used} leave their "
            "image. Write the width and the height.",
        )
        return
    filters = source.training and (source.cfg.get("filter_cfg") or {})
    left_out = ""
    if filters and filters.get("filter_empty_gt"):
        left_out = " Those without any annotation are left out (filter_empty_gt)."
    if len(found.with_objects) < found.images:
        findings.notice(
            source.place,
            f"{found.images - len(found.with_objects)} of {found.images} images in "
            f"{found.file} have no box.{left_out}",
            logging.INFO,
        )
    _report_losses(source, findings, found, verb)
    strays = {c: n for c, n in found.left_out.items() if c in ("stray", "unknown")}
    if strays:
        findings.notice(
            source.place,
            f"{sum(strays.values())} annotations in {found.file} are left out: "
            f"{_causes(found, strays)}.",
        )


def report_doubles(
    source: Source, findings: Findings, file: str, annotations: Sequence[dict]
) -> None:
    """Say where many objects are annotated twice: one of two can never be found."""
    keys = ((a["image_id"], a["category_id"], *a["bbox"]) for a in annotations)
    doubles = len(annotations) - len(set(keys))
    if doubles > _DOUBLES * len(annotations):
        findings.notice(
            source.place,
            f"{doubles} of {len(annotations)} annotations in {file} repeat another, "
            "with the same image, category and box. Leave one of each.",
        )


def report_absent(
    sources: Sequence[Source], findings: Findings, parts: Sequence[Objects]
) -> None:
    """Name the classes without an object in all data sets of a dataloader."""
    counts = sum((found.counts for found in parts), Counter[str]())
    if not counts:
        return  # has been said
    verb = "learnt from" if sources[0].training else "scored"
    files = listed(found.file for found in parts)
    absent = [name for name in parts[0].classes if not counts[name]]
    left = [f.left_out_of.get(name, Counter()) for f in parts for name in absent]
    causes = sum(left, Counter[str]())
    why = ", ".join(f"{n} {CAUSES[cause][0]}" for cause, n in causes.most_common())
    if absent:
        findings.notice(
            ", ".join(source.place for source in sources),
            f"Not one object of {listed(absent, 20)} in {files} can be {verb}"
            f"{f': {why}' if why else ''}.",
        )


def _report_none(source: Source, findings: Findings, found: Objects, verb: str) -> None:
    causes = dict(found.left_out)
    advice = " ".join(CAUSES[cause][1] for cause, _ in found.left_out.most_common(2))
    sentence = (
        f"No image in {found.file} has a box of any class in `classes` that can be "
        f"{verb}: of {found.total} annotations {_causes(found, causes)}. {advice}"
        if causes
        else f"No image in {found.file} has a box of any class in `classes`: there is "
        f"nothing to {'learn' if source.training else 'score'}. Check ann_file and the "
        "variable `classes`."
    )
    if source.training:
        findings.problem(source.place, sentence)
    else:
        findings.notice(source.place, sentence)


def _report_losses(
    source: Source, findings: Findings, found: Objects, verb: str
) -> None:
    faults = {c: found.left_out[c] for c in _GEOMETRY if found.left_out[c]}
    if faults or found.beyond:
        number = sum(faults.values()) + found.beyond
        parts = [_causes(found, faults)] if faults else []
        parts += [f"{found.beyond} leave it in part"] if found.beyond else []
        first = found.first.get("beyond") or found.first[next(iter(faults))]
        findings.notice(
            source.place,
            f"{number} boxes in {found.file} leave their image or have no area: "
            f"{', '.join(parts)}; the first: {first}.",
        )
    for cause in ("ignored", "mask", "crowd", "difficult"):
        number = found.left_out[cause]
        if not number:
            continue
        # Crowds are as common as difficult objects; where most are, it is a mistake.
        usual = cause in ("crowd", "difficult") and 2 * number < found.used
        findings.notice(
            source.place,
            f"{number} of {found.total} annotations in {found.file} "
            f"{CAUSES[cause][0]}: they are not {verb}; the first: "
            f"{found.first[cause]}.",
            logging.INFO if usual else logging.WARNING,
        )


def _causes(found: Objects, numbers: Mapping[str, int]) -> str:
    ordered = sorted(numbers.items(), key=lambda item: -item[1])
    return ", ".join(
        f"{n} {CAUSES[cause][0]} (the first: {found.first[cause]})"
        for cause, n in ordered
    )


def _are_corners(found: Objects) -> bool:
    """Whether all boxes make sense as corners, and many do not as sizes."""
    leaving = found.beyond + found.left_out["outside"]
    return (
        found.used >= _NUM_CORNERS
        and found.corners == found.used
        and 4 * leaving >= found.used
    )
