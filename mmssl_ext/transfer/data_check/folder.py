"""Check of classification data: a folder per class, or a list of paths and labels."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from mmssl_ext.datasets.walk import ImageWalk, class_folders
from mmssl_ext.files import IMAGE_EXTENSIONS

from .files import check_images, look_at_files, note_links, read_names
from .source import Fault, Source, listed, need_folders

_FIRST = 20  # images of a class folder whose suffixes are looked at
_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")


def read(source: Source) -> None:
    """Check the folders of the classes, or the list, and the number of classes."""
    split = str(source.cfg.get("split") or "")
    folder = source.prefix("img_path")
    folder = folder if folder != source.path() else source.path(split)
    key = "data_root, data_prefix or split"
    need_folders((folder, key, "The image folder"))
    meta = os.path.join("meta", f"{split}.txt")  # read by ImageNet where it exists
    if split and not source.cfg.get("ann_file") and source.path(meta).is_file():
        source.cfg = {**source.cfg, "ann_file": meta}
    labelled = source.cfg.get("with_label", True) and split != "test"
    if source.cfg.get("ann_file"):
        _check_list(source, folder, labelled)
    elif labelled:
        _check_classes(source, folder)
    elif not _first_images(source, [folder])[0]:
        raise Fault(f"{folder} holds no images.")


def _number_of_classes(source: Source) -> int | None:
    number = (source.model.get("head") or {}).get("num_classes")
    return number or (len(source.classes) if source.classes else None)


def _check_classes(source: Source, folder: Path) -> None:
    names = class_folders(str(folder), hidden=True)
    if not names:
        raise Fault(
            f"{folder} has no subfolders, but the labels are the names of the "
            "subfolders. Sort the images into a folder per class, or name a list of "
            "`path label` lines by ann_file."
        )
    source.labels = source.classes or tuple(names)
    if len(names) == 1:
        deeper = class_folders(str(folder / names[0]), hidden=True)
        source.problem(
            f"{folder} has one subfolder, {names[0]}: there is nothing to tell apart. "
            "Sort the images into a folder per class"
            + (f", or is {folder / names[0]} the one to name?" if deeper else ".")
        )
    found = _first_images(source, [folder / name for name in names])
    source.images = [str(path) for path in found if path]
    empty = [name for name, path in zip(names, found, strict=True) if path is None]
    if len(empty) == len(names):
        source.problem(
            f"The {len(names)} subfolders of {folder} hold no images "
            f"({', '.join(_EXTENSIONS)}): the split is empty."
        )
    elif empty:
        source.notice(f"Classes without any image in {folder}: {listed(empty)}.")
    number, classes = _number_of_classes(source), source.classes
    but = ""
    if classes and len(classes) != len(names):
        but = f"`classes` has {len(classes)} names"
    elif number and len(names) > number:
        but = f"model.head.num_classes is {number}"
    if but:
        source.problem(
            f"{folder} has {len(names)} subfolders, one per class ({listed(names)}), "
            f"but {but}. Set the variable `classes`, or complete the data."
        )


def _check_list(source: Source, folder: Path, labelled: bool) -> None:
    names, path = read_names(source), source.ann_file
    if labelled:
        pairs = [line.rsplit(" ", 1) for line in names]
        for i, pair in enumerate(pairs, 1):
            if len(pair) != 2 or not pair[1].isdigit():
                raise Fault(
                    f"Line {i} of {path} is not `path label`: {names[i - 1]!r}."
                )
        names = [pair[0] for pair in pairs]
        number = _number_of_classes(source)
        largest = max(int(pair[1]) for pair in pairs)
        if number and largest >= number:
            source.problem(
                f"{path} has the label {largest}, but {number} classes have the "
                f"numbers 0 to {number - 1}. Set the variable `classes`, or count from "
                "0."
            )
    paths = [os.path.join(folder, name) for name in names]
    check_images(source, paths, f"images of {path}")


def _first_images(source: Source, folders: list[Path]) -> list[Path | None]:
    """Return an image of each folder, None where there is none; look at some of them.

    Says which images the suffixes of the data set leave out, among the first of each
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
        note_links(source, walk)
    if left_out:
        where = folders[0].parent if len(folders) > 1 else folders[0]
        source.notice(
            f"{where} has images that the data set leaves out for their "
            f"suffix ({listed(left_out)}): add it to `extensions` of the data set."
        )
    look_at_files(source, [path for path in found if path])
    return found
