"""Check of data sets in the layout of COCO: one JSON file and a folder of images."""

from __future__ import annotations

import functools
import gc
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from .data_check_base import (
    NUM_FILES,
    Findings,
    Source,
    check_files,
    listed,
    missing_path,
    unknown_classes,
)

# What may stand where; upstream indexes, adds and compares these. Missing keys are
# counted apart.
_ID, _TEXT, _NUMBER = "number or text", "text", "number below a trillion"
_KINDS = {
    "images": {"id": _ID, "file_name": _TEXT, "height": _NUMBER, "width": _NUMBER},
    "annotations": {"id": _ID, "image_id": _ID, "category_id": _ID, "area": _NUMBER},
    "categories": {"id": _ID, "name": _ID},
}


def check_coco(sources: list[Source], findings: Findings) -> None:
    """Check annotation files, classes, boxes and that images are there."""
    try:
        for source in sources:
            _check(source, findings)
    finally:
        _read.cache_clear()  # gigabytes for COCO's own file


def _check(source: Source, findings: Findings) -> None:
    def problem(sentence: str) -> None:
        findings.problem(source.place, sentence)

    if not source.cfg.get("ann_file"):
        problem("ann_file is not set. Name the JSON file of the annotations.")
        return
    path = source.path(source.cfg["ann_file"])
    if not path.is_file():
        problem(missing_path(source, path, "ann_file", "The annotation file"))
        return
    content = _read(path)
    if isinstance(content, str):
        problem(content)
        return
    images, annotations, categories = content
    if not images:
        problem(f"{path} lists no images: the split is empty.")
        return
    used = _check_classes(source, findings, path, categories)
    _check_images(source, findings, path, images)
    if annotations is None:
        if source.training:
            problem(f"{path} has no 'annotations', so nothing can be learnt from it.")
        return
    faults = _malformed(path, images, annotations)
    for sentence in faults:
        problem(sentence)
    if not faults:
        _check_boxes(source, findings, path, images, annotations, used)


@functools.cache
def _read(path: Path) -> tuple[list, list | None, list] | str:
    """Images, annotations and categories, or the sentence on what is wrong."""
    ask = "Name a COCO annotation file by ann_file."
    was_enabled = gc.isenabled()
    gc.disable()  # halves the time for COCO's millions of small lists
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        return f"{path} is not valid JSON: {error}. {ask}"
    finally:
        if was_enabled:
            gc.enable()
    parts: list[Any] = []
    for name in ("images", "annotations", "categories"):
        part = content.get(name) if isinstance(content, dict) else None
        parts.append(part)
        if name == "annotations" and part is None and isinstance(content, dict):
            continue
        if not isinstance(part, list) or not all(isinstance(p, dict) for p in part):
            keys = listed(content) if isinstance(content, dict) else "no keys"
            return (
                f"{path} is not in COCO's format: it has no list of '{name}' (found: "
                f"{keys}). {ask}"
            )
        for key, kind in _KINDS[name].items():
            wrong = [p[key] for p in part if key in p and not _is(p[key], kind)]
            if wrong:
                return (
                    f"{path}: the '{key}' of {len(wrong)} {name} is no {kind}; the "
                    f"first is {repr(wrong[0])[:80]}. {ask}"
                )
    return parts[0], parts[1], parts[2]


def _is(value: Any, kind: str) -> bool:
    if kind == _NUMBER:  # neither NaN, infinite, nor too long for a float
        return isinstance(value, (int, float)) and -1e12 < value < 1e12
    return isinstance(value, str) or (kind == _ID and isinstance(value, (int, float)))


def _check_classes(
    source: Source, findings: Findings, path: Path, categories: list[dict]
) -> set:
    """Compare the names; return the ids of the categories that are used."""
    names = [str(category.get("name")) for category in categories]
    classes = source.classes
    if classes is None:
        return {category.get("id") for category in categories}
    if missing := [name for name in classes if name not in names]:
        findings.problem(source.place, unknown_classes(missing, names, str(path)))
    elif extra := [name for name in names if name not in classes]:
        findings.notice(
            source.place,
            f"{path} has categories that are not in `classes` and are left out: "
            f"{listed(extra)}.",
        )
    order = [name for name in names if name in classes]
    if not missing and order != list(classes):
        # mmdet numbers the classes in the order of the file, whatever `classes` says.
        findings.notice(
            source.place,
            f"`classes` is in another order than the categories of {path}, by which "
            "mmdet numbers them: names in tables and pictures would be exchanged. "
            f"Write {listed(order, 20)}.",
        )
    return {c.get("id") for c in categories if str(c.get("name")) in classes}


def _check_images(
    source: Source, findings: Findings, path: Path, images: list[dict]
) -> None:
    for key in ("id", "file_name", "height", "width"):
        if lacking := sum(key not in image for image in images):
            findings.problem(
                source.place, f"{lacking} images in {path} have no '{key}'."
            )
            return
    folder = source.path(source.prefix("img", "img_path"))
    if not folder.is_dir():
        sentence = missing_path(source, folder, "data_prefix.img", "The image folder")
        findings.problem(source.place, sentence)
        return
    files = [folder / str(image["file_name"]) for image in images[:NUM_FILES]]
    check_files(source, findings, files, f"images of {path}")


def _malformed(path: Path, images: list[dict], annotations: list[dict]) -> list[str]:
    """Faults of annotations on which mmdet would stop with a bare KeyError."""
    found = []
    for key in ("id", "image_id", "category_id", "bbox", "area"):
        if lacking := [a for a in annotations if key not in a]:
            found.append(
                f"{len(lacking)} annotations in {path} have no '{key}', the first has "
                f"the id {lacking[0].get('id')}."
            )
    boxes = (a["bbox"] for a in annotations if "bbox" in a)
    if wrong := sum(
        not (
            isinstance(box, list)
            and len(box) == 4
            and all(_is(value, _NUMBER) for value in box)
        )
        for box in boxes
    ):
        found.append(
            f"{wrong} annotations in {path} have a 'bbox' that is not a list of four "
            "numbers [x, y, width, height]."
        )
    ids = Counter(a.get("id") for a in annotations)
    if ids and (double := ids.most_common(1)[0])[1] > 1:
        found.append(
            f"{path}: the ids of annotations are not unique, {double[0]} occurs "
            f"{double[1]} times. Number them anew."
        )
    return found


def _check_boxes(
    source: Source,
    findings: Findings,
    path: Path,
    images: list[dict],
    annotations: list[dict],
    used: set,
) -> None:
    by_id = {image.get("id"): image for image in images}
    with_boxes: set = set()
    bad: list[tuple[dict, list]] = []
    strays = no_mask = 0
    for annotation in annotations:
        image = by_id.get(annotation["image_id"])
        if image is None:
            strays += 1
            continue
        if annotation["category_id"] not in used:
            continue
        x, y, width, height = box = annotation["bbox"]
        image_width, image_height = image.get("width", 0), image.get("height", 0)
        # mmdet drops a box below one pixel. One pixel beyond the border comes from
        # counting from 1, or from rounding.
        usable = width >= 1 and height >= 1 and annotation["area"] > 0
        outside = x + width > image_width + 1 or y + height > image_height + 1
        if not usable or outside or min(x, y) < -1:
            bad.append((image, box))
        if usable:
            with_boxes.add(annotation["image_id"])
            no_mask += not annotation.get("segmentation")
    report_boxes(
        source, findings, str(path), len(images), len(with_boxes), len(bad),
        f"{bad[0][0].get('file_name')}, box {bad[0][1]}" if bad else "",
    )  # fmt: skip
    if strays:
        findings.notice(
            source.place,
            f"{strays} annotations in {path} belong to an image that it does not list.",
        )
    pipeline = source.cfg.get("pipeline") or []
    if no_mask and any(isinstance(t, dict) and t.get("with_mask") for t in pipeline):
        findings.problem(
            source.place,
            f"{no_mask} annotations in {path} have no 'segmentation', but the pipeline "
            "loads masks (with_mask=True). Use a config without mask head, or give "
            "every annotation a segmentation.",
        )


def report_boxes(
    source: Source,
    findings: Findings,
    file: str,
    images: int,
    with_boxes: int,
    bad: int,
    first_bad: str,
) -> None:
    """Say how many images have no box and which boxes are useless.

    Args:
        source: The data set.
        findings: Receives problems and notices.
        file: What was read, for the sentences.
        images: Number of images that were looked at.
        with_boxes: How many of them have a box of a class in `classes`.
        bad: Number of boxes out of the image or of no area.
        first_bad: Image and coordinates of the first of them.
    """
    if source.training and not with_boxes:
        findings.problem(
            source.place,
            f"No image in {file} has a box of any class in `classes`: there is nothing "
            "to learn. Check ann_file and the variable `classes`.",
        )
    elif with_boxes < images:
        findings.notice(
            source.place,
            f"{images - with_boxes} of {images} images in {file} have no box.",
            logging.INFO,
        )
    if bad:
        findings.notice(
            source.place,
            f"{bad} boxes in {file} leave their image or have no area; the first: "
            f"{first_bad}.",
        )
