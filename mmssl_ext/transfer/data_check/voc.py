"""Check of data sets in the layout of VOC: a list of names and an XML file each."""

from __future__ import annotations

import logging
import math
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import IMAGE_EXTENSIONS

from .files import check_files, check_images, read_names
from .objects import Objects, report_absent
from .source import Fault, Source, listed, need_folders, unknown_classes

SECONDS = 20.0  # for the XML files of one data set; those left are not read


class _Content(NamedTuple):
    """Width and height, and of each object its name, whether difficult, corners."""

    size: tuple[int, int]
    objects: list[tuple[str, bool, list[float]]]


def read(source: Source) -> Objects:
    """Check list, images and XML files of a data set, and count its objects."""
    source.labels = source.classes
    folder = source.prefix("sub_data_root")
    need_folders((folder, "data_prefix.sub_data_root", "The folder"))
    images = folder / source.option("img_subdir", "JPEGImages")
    xmls = folder / source.option("ann_subdir", "Annotations")
    names = read_names(source, stripped=False)
    need_folders(
        (images, "img_subdir", "The image folder"),
        (xmls, "ann_subdir", "The annotation folder"),
    )
    if double := [name for name, number in Counter(names).items() if number > 1]:
        source.notice(
            f"{source.ann_file} names {len(double)} images more than once, the first "
            f"is {double[0]}."
        )
    suffix = source.option("img_suffix", ".jpg")
    paths = {name: f"{images / name}{suffix}" for name in names}
    columns = ""
    if all(len(name.split()) == 2 for name in names):
        columns = " The list has two columns, as those of single classes: take another."
    hint = columns or _other_suffix(images, names[0], suffix)
    check_images(source, [paths[name] for name in names], "images", hint)
    files = [f"{xmls / name}.xml" for name in paths]
    if not check_files(source, files, f"XML files in {xmls}", columns):
        raise Fault
    return _objects(source, xmls, paths, _read_files(xmls, list(paths)))


def report(parts: list[Objects]) -> None:
    """Say which classes are not in any data set of a dataloader."""
    names = {str(name) for part in parts for name in part.names}
    if not names:
        return  # has been said
    classes, source = parts[0].classes, parts[0].source
    missing = [name for name in classes if name not in names]
    extra = sorted(names.difference(classes))
    complete = all(part.complete for part in parts)
    lists = listed(part.file for part in parts)
    sentence, level = "", logging.WARNING
    if missing:
        # A rare class may be absent from a small validation split, or from a sample.
        level = source.level if complete else logging.INFO
        sentence = unknown_classes(missing, sorted(names), f"the objects of {lists}")
    elif classes and extra:
        sentence = (
            f"Objects of {lists} that are not in `classes` are left out: "
            f"{listed(extra)}."
        )
    for part in parts if sentence else ():
        part.source.notice(sentence, level)
    if complete and not missing:
        report_absent(parts)


def _objects(
    source: Source, folder: Path, paths: dict[str, str], files: dict[str, _Content]
) -> Objects:
    """Apply the rules of mmdet's ``XMLDataset``.

    Difficult objects are not scored. They are learnt from by our own class only.
    """
    file, classes = str(source.ann_file), source.classes or ()
    rows = [(i, *o) for i, (_, objects) in enumerate(files.values()) for o in objects]
    image, names, hard, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    xmls = [folder / f"{name}.xml" for name in files]
    corners = np.array(boxes, float).reshape(-1, 4)

    def example(number: int) -> str:
        if classes and names[number] not in classes:
            return f"{names[number]!r} in {xmls[image[number]]}"
        return f"{xmls[image[number]]}, box {boxes[number]}"

    found = Objects(
        source,
        file if len(files) == len(paths) else f"a sample of {file}",
        classes,
        [paths[name] for name in files],
        np.array([content.size for content in files.values()], float),
        np.array(image, int),
        names,
        corners,
        example,
        complete=len(files) == len(paths),
    )
    if classes:
        others = [name not in classes for name in names]
        found.leave_out("other", np.array(others, bool))
    reverse = (corners[:, 2:] < corners[:, :2]).any(1) & found.used
    if reverse.any():
        raise Fault(
            f"{reverse.sum()} boxes in {file} have xmin above xmax or ymin above ymax, "
            f"which makes the loss NaN; the first: {example(int(reverse.argmax()))}. "
            "Exchange them."
        )
    found.leave_out("relative", np.all(corners[:, 2:] <= 1, axis=1))
    if not source.training or source.type_name != "VOCDetectionDataset":
        found.leave_out("difficult", np.array(hard, bool))
    found.report()
    found.check_sizes()
    return found


def _read_files(folder: Path, names: list[str]) -> dict[str, _Content]:
    """Read as many of the files as there is time for."""
    contents: dict[str, _Content] = {}
    end = time.monotonic() + SECONDS
    for name in random.Random(0).sample(names, len(names)):
        path = folder / f"{name}.xml"
        try:
            contents[name] = _read(path)
        except (ET.ParseError, ValueError, TypeError, LookupError) as error:
            raise Fault(
                f"{path} is not a VOC annotation: {error}. Fix or delete it."
            ) from error
        if time.monotonic() > end:
            break
    return {name: contents[name] for name in names if name in contents}


def _read(path: Path) -> _Content:
    """Read a file.

    Raises:
        ValueError: What mmdet could not read either, and the like.
    """
    if not path.is_file():  # opening a pipe would wait
        raise UserValueError("it is no regular file")
    root = ET.parse(path).getroot()
    width, height = (_whole(root, f"size/{side}") for side in ("width", "height"))
    objects = []
    for node in root.findall("object"):
        name = node.findtext("name")
        sides = ("xmin", "ymin", "xmax", "ymax")
        corners = [node.findtext(f"bndbox/{side}") for side in sides]
        if name is None or None in corners:
            raise UserValueError("an object has no name or no complete bndbox")
        box = [float(corner or "") for corner in corners]
        if not all(map(math.isfinite, box)):
            raise UserValueError(f"the bndbox {box} is not finite")
        objects.append((name, bool(_whole(node, "difficult")), box))
    return _Content((width, height), objects)


def _whole(node: ET.Element, tag: str) -> int:
    text = node.findtext(tag, "0")
    try:
        return int(text)
    except ValueError:
        raise UserValueError(f"<{tag}> is {text!r}, not a whole number") from None


def _other_suffix(folder: Path, name: str, suffix: str) -> str:
    """What to set where the first image has another suffix than is looked for."""
    if Path(name).suffix.lower() in IMAGE_EXTENSIONS:
        return " The names in the list have suffixes: leave them out."
    if (folder / f"{name}{suffix}").is_file():
        return ""
    for other in (s for x in IMAGE_EXTENSIONS for s in (x, x.upper())):
        if (folder / f"{name}{other}").is_file():
            return f" There is {name}{other}: set img_suffix={other}."
    return ""
