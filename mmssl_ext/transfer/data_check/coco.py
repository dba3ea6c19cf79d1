"""Check of data sets in the layout of COCO: one JSON file and a folder of images."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .base import (
    Findings,
    Source,
    check_files,
    listed,
    missing_path,
    spread,
    unknown_classes,
)
from .json import lacking, malformed, read_coco, repeated
from .masks import check_masks, reads_masks
from .objects import Objects, count_coco, report_absent, report_doubles, report_objects
from .sizes import NUM_SIZES, check_sizes


def check_coco(sources: list[Source], findings: Findings) -> None:
    """Check annotation files, classes, boxes, masks and that images are there."""
    try:
        parts = [(source, _check(source, findings)) for source in sources]
    finally:
        read_coco.cache_clear()  # gigabytes for COCO's own file
    counted = [(source, found) for source, found in parts if found is not None]
    if counted:
        report_absent([s for s, _ in counted], findings, [f for _, f in counted])


def _check(source: Source, findings: Findings) -> Objects | None:
    def problem(sentence: str) -> None:
        findings.problem(source.place, sentence)

    if not source.cfg.get("ann_file"):
        problem("ann_file is not set. Name the JSON file of the annotations.")
        return None
    path = source.path(source.cfg["ann_file"])
    if not path.is_file():
        problem(missing_path(source, path, "ann_file", "The annotation file"))
        return None
    content = read_coco(path)
    if isinstance(content, str):
        problem(content)
        return None
    images, annotations, categories = content
    if not images:
        problem(f"{path} lists no images: the split is empty.")
        return None
    faults = lacking(path, "categories", categories, ("id", "name"))
    faults += repeated(path, "categories", (c.get("id") for c in categories))
    if faults:
        for sentence in faults:
            problem(sentence)
        return None
    used = _check_classes(source, findings, path, categories)
    sound = _check_images(source, findings, path, images)
    if annotations is None:
        sentence = f"{path} has no 'annotations', so nothing can be "
        if source.training:
            problem(f"{sentence}learnt from it.")
        else:
            findings.notice(source.place, f"{sentence}scored.")
        return None
    faults = malformed(path, annotations)
    for sentence in faults:
        problem(sentence)
    if sound and not faults:
        names = {c["id"]: str(c["name"]) for c in categories}
        return _check_objects(source, findings, path, images, annotations, names, used)
    return None


def _check_classes(
    source: Source, findings: Findings, path: Path, categories: list[dict]
) -> tuple[str, ...]:
    """Compare the names; return those of the categories that are used."""
    names = [str(category["name"]) for category in categories]
    classes = source.classes
    if classes is None:
        source.labels = source.order = tuple(names)
        return source.labels
    counts = Counter(names)
    if double := [name for name in dict.fromkeys(classes) if counts[name] > 1]:
        findings.problem(
            source.place,
            f"{path} has several categories of the name {listed(double)}. Leave one of "
            "each name, and give its id to the annotations.",
        )
    missing = [name for name in classes if not counts[name]]
    # A split may lack a class, and its file the category, unless that shifts the rest.
    may_lack = source.by_name and not source.training and len(missing) < len(classes)
    if missing and may_lack:
        findings.notice(
            source.place,
            f"{path} has no category of the name {listed(missing, 20)}.",
        )
    elif missing:
        findings.problem(source.place, unknown_classes(missing, names, str(path)))
    if not missing and (extra := [name for name in names if name not in classes]):
        findings.notice(
            source.place,
            f"{path} has categories that are not in `classes` and are left out: "
            f"{listed(extra)}.",
        )
    source.order = order = tuple(name for name in names if name in classes)
    source.labels = classes if source.by_name else order
    if not missing and not double and source.labels != classes:
        # mmdet numbers the classes in the order of the file, whatever `classes` says.
        findings.notice(
            source.place,
            f"`classes` is in another order than the categories of {path}, by which "
            "mmdet numbers them: names in tables and pictures would be exchanged. "
            f"Write {listed(order, 20)}, or use mmssl_ext.CocoDetectionDataset and "
            "mmssl_ext.CocoDetectionMetric, which go by the names.",
        )
    return order


def _check_images(
    source: Source, findings: Findings, path: Path, images: list[dict]
) -> bool:
    """Whether the entries of the images can be used."""
    faults = lacking(path, "images", images, ("id", "file_name", "height", "width"))
    faults = faults[:1] + repeated(path, "images", (i.get("id") for i in images))
    for sentence in faults:
        findings.problem(source.place, sentence)
    if faults:
        return False
    names = Counter(image["file_name"] for image in images)
    if len(names) < len(images):
        name, number = names.most_common(1)[0]
        findings.notice(
            source.place,
            f"{len(images) - len(names)} images in {path} are listed more than once, "
            f"{name} {number} times: objects that one entry has count as background in "
            "the others. Make one entry of them.",
        )
    folder = source.path(source.prefix("img", "img_path"))
    if not folder.is_dir():
        sentence = missing_path(source, folder, "data_prefix.img", "The image folder")
        findings.problem(source.place, sentence)
        return True
    source.images = [os.path.join(folder, image["file_name"]) for image in images]
    check_files(source, findings, source.images, f"images of {path}", _hint(names))
    return True


def _hint(names: Iterable[str]) -> str:
    """What may be wrong with file names that lead nowhere."""
    odd = [name for name in names if "://" in name or "\\" in name or name[:1] == "/"]
    if any("://" in name for name in odd):
        return " 'file_name' is an address: write the path below data_prefix.img."
    if any("\\" in name for name in odd):
        return " 'file_name' has backslashes: write / between folders."
    if odd:
        return (
            " 'file_name' is an absolute path, perhaps of another machine: write the "
            "path below data_prefix.img."
        )
    return ""


def _check_objects(
    source: Source,
    findings: Findings,
    path: Path,
    images: list[dict],
    annotations: list[dict],
    names: Mapping[Any, str],
    used: tuple[str, ...],
) -> Objects:
    by_id = {image["id"]: image for image in images}
    ids = {number: name for number, name in names.items() if name in used}
    has_mask = None
    if reads_masks(source):
        has_mask = check_masks(source, findings, path, by_id, annotations, ids)
    found = count_coco(str(path), by_id, annotations, names, used, has_mask)
    report_objects(source, findings, found)
    report_doubles(source, findings, str(path), annotations)
    least = (source.cfg.get("filter_cfg") or {}).get("min_size", 0)
    large = [i for i in images if min(i["width"], i["height"]) >= least]
    if source.training and not large:
        findings.problem(
            source.place,
            f"All images in {path} are smaller than filter_cfg.min_size={least}, so "
            "none is left. Lower it.",
        )
    elif source.training and len(large) < len(images):
        findings.notice(
            source.place,
            f"{len(images) - len(large)} of {len(images)} images in {path} are smaller "
            f"than filter_cfg.min_size={least} and are left out.",
            logging.INFO,
        )
    folder = source.path(source.prefix("img", "img_path"))
    sample = {image["id"]: image for image in spread(images, NUM_SIZES)}
    boxes: dict[Any, list[list[float]]] = {number: [] for number in sample}
    for annotation in annotations:
        if annotation["image_id"] in sample and annotation["category_id"] in ids:
            x, y, width, height = annotation["bbox"]
            boxes[annotation["image_id"]].append([x, y, x + width, y + height])
    stated = [
        (folder / i["file_name"], (i["width"], i["height"]), boxes[number])
        for number, i in sample.items()
    ]
    exact = has_mask is not None and any(
        isinstance(a.get("segmentation"), dict) for a in annotations
    )
    check_sizes(source, findings, str(path), stated, exact)
    return found
