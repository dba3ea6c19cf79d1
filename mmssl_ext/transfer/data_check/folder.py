"""Check of classification data: a folder per class, or a list of paths and labels."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from mmssl_ext.datasets.listing import IMAGE_EXTENSIONS
from mmssl_ext.datasets.walk import ImageWalk, class_folders

from .base import Findings, Source, check_files, listed, missing_path, read_lines
from .images import look_at_files, note_links

_FIRST = 20  # images of a class folder whose suffixes are looked at
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")


def check_folder(sources: list[Source], findings: Findings) -> None:
    """Check the folders of the classes, or the lists, and the number of classes."""
    for source in sources:
        split = str(source.cfg.get("split") or "")
        folder = source.path(source.prefix("img_path") or split)
        if not folder.is_dir():
            key = "data_root, data_prefix or split"
            sentence = missing_path(source, folder, key, "The image folder")
            findings.problem(source.place, sentence)
            continue
        meta = os.path.join("meta", f"{split}.txt")  # read by ImageNet where it exists
        if split and not source.cfg.get("ann_file") and source.path(meta).is_file():
            source.cfg = {**source.cfg, "ann_file": meta}
        labelled = source.cfg.get("with_label", True) and split != "test"
        if source.cfg.get("ann_file"):
            _check_list(source, findings, folder, labelled)
        elif labelled:
            _check_classes(source, findings, folder)
        elif not _images(source, findings, [folder])[0]:
            findings.problem(source.place, f"{folder} holds no images.")


def _number_of_classes(source: Source) -> int | None:
    head: Any = source.model.get("head")
    number = head.get("num_classes") if isinstance(head, dict) else None
    return number or (len(source.classes) if source.classes else None)


def _check_classes(source: Source, findings: Findings, folder: Path) -> None:
    names = class_folders(str(folder), hidden=True)
    if not names:
        findings.problem(
            source.place,
            f"{folder} has no subfolders, but the labels are the names of the "
            "subfolders. Sort the images into a folder per class, or name a list of "
            "`path label` lines by ann_file.",
        )
        return
    source.labels = source.classes or tuple(names)
    if len(names) == 1:
        deeper = class_folders(str(folder / names[0]), hidden=True)
        findings.problem(
            source.place,
            f"{folder} has one subfolder, {names[0]}: there is nothing to tell apart. "
            "Sort the images into a folder per class"
            + (f", or is {folder / names[0]} the one to name?" if deeper else "."),
        )
    found = _images(source, findings, [folder / name for name in names])
    source.images = [str(path) for path in found if path]
    empty = [name for name, path in zip(names, found, strict=True) if path is None]
    if len(empty) == len(names):
        findings.problem(
            source.place,
            f"The {len(names)} subfolders of {folder} hold no images "
            f"({', '.join(_EXTENSIONS)}): the split is empty.",
        )
    elif empty:
        findings.notice(
            source.place, f"Classes without any image in {folder}: {listed(empty)}."
        )
    number = _number_of_classes(source)
    classes = source.classes
    if classes and len(classes) != len(names):
        findings.problem(
            source.place,
            f"{folder} has {len(names)} subfolders ({listed(names)}), but `classes` "
            f"has {len(classes)} names. Set the variable `classes`, or complete the "
            "data.",
        )
    elif number and len(names) > number:
        findings.problem(
            source.place,
            f"{folder} has {len(names)} subfolders, one per class, but "
            f"model.head.num_classes is {number}.",
        )


def _check_list(
    source: Source, findings: Findings, folder: Path, labelled: bool
) -> None:
    lines = read_lines(source, findings, "The list of images")
    if lines is None:
        return
    path = source.path(source.cfg["ann_file"])
    names = lines
    if labelled:
        pairs = [line.rsplit(" ", 1) for line in lines]
        for i, pair in enumerate(pairs, 1):
            if len(pair) != 2 or not pair[1].isdigit():
                findings.problem(
                    source.place,
                    f"Line {i} of {path} is not `path label`: {lines[i - 1]!r}.",
                )
                return
        names = [pair[0] for pair in pairs]
        number = _number_of_classes(source)
        largest = max(int(pair[1]) for pair in pairs)
        if number and largest >= number:
            findings.problem(
                source.place,
                f"{path} has the label {largest}, but {number} classes have the "
                f"numbers 0 to {number - 1}. Set the variable `classes`, or count from "
                "0.",
            )
    source.images = [os.path.join(folder, name) for name in names]
    check_files(source, findings, source.images, f"images of {path}")


def _images(
    source: Source, findings: Findings, folders: list[Path]
) -> list[Path | None]:
    """Return an image of each folder, None where there is none; look at some of them.

    Notes images that the suffixes of the data set leave out, among the first of each
    folder.
    """
    extensions = tuple(source.option("extensions", _EXTENSIONS))
    known = tuple({*IMAGE_EXTENSIONS, *extensions})
    found: list[Path | None] = []
    left_out: Counter[str] = Counter()
    for folder in folders:
        walk = ImageWalk(str(folder), known, hidden_folders=True)
        first = None
        for number, name in enumerate(walk):
            if not name.lower().endswith(extensions):
                left_out[Path(name).suffix.lower()] += 1
            else:
                first = first or folder / name
            if first and number >= _FIRST:
                break
        found.append(first)
        note_links(source, findings, walk)
    if left_out:
        where = folders[0].parent if len(folders) > 1 else folders[0]
        findings.notice(
            source.place,
            f"{where} has images that the data set leaves out for their "
            f"suffix ({listed(left_out)}): add it to `extensions` of the data set.",
        )
    look_at_files(source, findings, [path for path in found if path])
    return found
