"""Check of data sets in the layout of COCO: one JSON file and a folder of images."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from mmssl_ext.text import shown

from .files import check_images
from .json import read_coco
from .masks import check_masks
from .objects import Objects
from .source import Fault, Source, listed, missing_path, need_folders, unknown_classes

_BY_NAME = ("CocoDetectionDataset", "CityscapesDetectionDataset")  # not by the order
_DOUBLES = 0.01  # COCO's own files have fewer
_NUM_CORNERS = 10  # so many boxes tell a list of corners from sizes


def read(source: Source) -> Objects:
    """Check annotation file, classes, boxes, masks and that images are there."""
    path = source.ann_file
    if not path.is_file():
        raise Fault(missing_path(path, "ann_file", "The annotation file"))
    content, faults = read_coco(path)
    annotations = content.get("annotations")
    if annotations is None:
        source.notice(
            f"{path} has no 'annotations', so nothing can be {source.verb}.",
            source.level,
        )
    if faults:
        raise Fault(*faults)
    classes = _check_classes(source, [str(c["name"]) for c in content["categories"]])
    _check_images(source, content["images"])
    if annotations is None:
        raise Fault
    found = _objects(source, content, classes)
    found.report()
    _report_doubles(source, annotations)
    _report_small(source, content["images"])
    masks = (a.get("segmentation") for a in annotations)
    exact = _reads_masks(source) and any(isinstance(mask, dict) for mask in masks)
    found.check_sizes(exact)
    return found


def _check_classes(source: Source, names: list[str]) -> tuple[str, ...]:
    """Compare the names; return those of the categories that are used."""
    path, classes, counts = source.ann_file, source.classes, Counter(names)
    if classes is None:
        source.labels = source.order = tuple(names)
        return source.labels
    by_name = source.type_name in _BY_NAME
    if double := [name for name in dict.fromkeys(classes) if counts[name] > 1]:
        source.problem(
            f"{path} has several categories of the name {listed(double)}. Leave one of "
            "each name, and give its id to the annotations."
        )
    missing = [name for name in classes if not counts[name]]
    # A split may lack a class, and its file the category, unless that shifts the rest.
    if missing and by_name and not source.training and len(missing) < len(classes):
        source.notice(f"{path} has no category of the name {listed(missing, 20)}.")
    elif missing:
        source.problem(unknown_classes(missing, names, str(path)))
    elif extra := [name for name in names if name not in classes]:
        source.notice(
            f"{path} has categories that are not in `classes` and are left out: "
            f"{listed(extra)}."
        )
    source.order = order = tuple(name for name in names if name in classes)
    source.labels = classes if by_name else order
    if not missing and not double and source.labels != classes:
        # mmdet numbers the classes in the order of the file, whatever `classes` says.
        source.notice(
            f"`classes` is in another order than the categories of {path}, by which "
            "mmdet numbers them: names in tables and pictures would be exchanged. "
            f"Write {listed(order, 20)}, or use mmssl_ext.CocoDetectionDataset and "
            "mmssl_ext.CocoDetectionMetric, which go by the names."
        )
    return order


def _check_images(source: Source, images: list[dict]) -> None:
    path, names = source.ann_file, Counter(image["file_name"] for image in images)
    if len(names) < len(images):
        name, number = names.most_common(1)[0]
        source.notice(
            f"{len(images) - len(names)} images in {path} are listed more than once, "
            f"{name} {number} times: objects that one entry has count as background in "
            "the others. Make one entry of them."
        )
    folder = source.prefix("img", "img_path")
    need_folders((folder, "data_prefix.img", "The image folder"))
    paths = [os.path.join(folder, image["file_name"]) for image in images]
    odd = [n for n in names if "://" in n or "\\" in n or os.path.isabs(n)]
    hint = "".join(
        f" {shown(name)} is an address, an absolute path or has backslashes: "
        "'file_name' is a path below data_prefix.img, with / between folders."
        for name in odd[:1]
    )
    check_images(source, paths, f"images of {path}", hint)


def _reads_masks(source: Source) -> bool:
    pipeline = source.cfg.get("pipeline") or []
    return any(isinstance(step, dict) and step.get("with_mask") for step in pipeline)


def _objects(source: Source, content: dict, classes: tuple[str, ...]) -> Objects:
    """Apply the rules of mmdet's ``CocoDataset`` to every annotation."""
    file, images = str(source.ann_file), content["images"]
    annotations = content["annotations"]
    rows = {image["id"]: row for row, image in enumerate(images)}
    categories = {c["id"]: str(c["name"]) for c in content["categories"]}
    names = [categories.get(a["category_id"]) for a in annotations]
    wanted = set(classes)
    image = np.array([rows.get(a["image_id"], -1) for a in annotations], int)
    sizes = np.array([(i["width"], i["height"]) for i in images], float)
    boxes = np.array([a["bbox"] for a in annotations], float).reshape(-1, 4)
    start, extent, size = boxes[:, :2], boxes[:, 2:], sizes[image]
    end = start + extent

    def example(number: int) -> str:
        annotation = annotations[number]
        if image[number] < 0:
            return f"image_id {annotation['image_id']!r}"
        if names[number] not in wanted:
            return f"category_id {annotation['category_id']!r}"
        return f"{images[image[number]]['file_name']}, box {annotation['bbox']}"

    def true(values: Iterable[Any]) -> np.ndarray:
        return np.fromiter(map(bool, values), bool, len(annotations))

    corners = np.hstack([start, end])  # N x 4
    found = Objects(
        source,
        file,
        classes,
        source.images,
        sizes,
        image,
        names,
        corners,
        example,
        slack=1,
    )
    found.leave_out("stray", image < 0)
    found.leave_out("unknown", true(name is None for name in names))
    found.leave_out("other", true(name not in wanted for name in names))
    used = np.flatnonzero(found.used)
    found.leave_out("ignored", true(a.get("ignore") for a in annotations))
    found.leave_out("small", np.any(extent < 1, axis=1))
    inside = np.minimum(end, size) > np.maximum(start, 0)
    found.leave_out("outside", ~inside.all(1))
    found.leave_out("area", true(a["area"] <= 0 for a in annotations))
    if _reads_masks(source):
        pairs = [(annotations[i], images[image[i]]) for i in used.tolist()]
        lost = used[~np.array(check_masks(source, file, pairs), bool)]
        found.leave_out("mask", np.isin(np.arange(len(names)), lost))
    found.leave_out("crowd", true(a.get("iscrowd") for a in annotations))
    sound = ((start >= -1) & (start < extent) & (extent <= size + 1)).all(1)
    _refuse_corners(found, used, sound)
    return found


def _refuse_corners(found: Objects, used: np.ndarray, sound: np.ndarray) -> None:
    """Refuse boxes that all make sense as corners, and many of them not as sizes."""
    leaving = int((found.beyond | (found.cause == "outside")).sum())
    enough = len(used) >= _NUM_CORNERS and 4 * leaving >= len(used)
    if enough and found.counts and sound[used].all():
        raise Fault(
            f"The boxes in {found.file} seem to be corners [x1, y1, x2, y2]: as [x, y, "
            f"width, height], as COCO has it, {leaving} of {len(used)} leave their "
            "image. Write the width and the height."
        )


def _report_doubles(source: Source, annotations: list[dict]) -> None:
    """Say where many objects are annotated twice: one of two can never be found."""
    keys = {(a["image_id"], a["category_id"], *a["bbox"]) for a in annotations}
    doubles = len(annotations) - len(keys)
    if doubles > _DOUBLES * len(annotations):
        source.notice(
            f"{doubles} of {len(annotations)} annotations in {source.ann_file} repeat "
            "another, with the same image, category and box. Leave one of each."
        )


def _report_small(source: Source, images: list[dict]) -> None:
    least = (source.cfg.get("filter_cfg") or {}).get("min_size", 0)
    small = sum(min(image["width"], image["height"]) < least for image in images)
    if source.training and small:
        source.notice(
            f"{small} of {len(images)} images in {source.ann_file} are smaller than "
            f"filter_cfg.min_size={least} and are left out.",
            logging.ERROR if small == len(images) else logging.INFO,
        )
