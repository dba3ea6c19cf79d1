"""Check of data sets in the layout of VOC: a list of names and an XML file each."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from mmssl_ext.datasets.listing import IMAGE_EXTENSIONS
from mmssl_ext.errors import UserValueError

from .base import (
    Findings,
    Source,
    check_files,
    listed,
    missing_path,
    read_lines,
    spread,
    unknown_classes,
)
from .objects import Objects, report_absent, report_objects
from .sizes import NUM_SIZES, check_sizes

NUM_XMLS = 2000  # a sample; all are read where it lacks a class to be trained
SECONDS = 20  # for the XML files of one data set

# Width and height; name, difficulty and corners of each object.
_Content = tuple[tuple[int, int], list[tuple[str, bool, list[float]]]]


def check_voc(sources: list[Source], findings: Findings) -> None:
    """Check lists, XML files and classes; all data sets of one dataloader together."""
    results = [(source, *_check(source, findings)) for source in sources]
    names = {name for _, present, _ in results for name in present}
    if not names:
        return  # what is wrong has been said
    classes = sources[0].classes or ()
    missing = [name for name in classes if name not in names]
    complete = all(found is not None and found.complete for _, _, found in results)
    places = ", ".join(source.place for source in sources)
    lists = listed(source.path(source.cfg["ann_file"]) for source in sources)
    sentence = unknown_classes(missing, sorted(names), f"the objects of {lists}")
    # A rare class may be absent from a small validation split, or from a sample.
    if missing and sources[0].training and complete:
        findings.problem(places, sentence)
    elif missing:
        findings.notice(places, sentence)
    elif classes and (extra := sorted(names.difference(classes))):
        findings.notice(
            places,
            f"Objects of {lists} that are not in `classes` are left out: "
            f"{listed(extra)}.",
        )
    counted = [(source, found) for source, _, found in results if found is not None]
    if counted and complete and not missing:
        report_absent([s for s, _ in counted], findings, [f for _, f in counted])


def _check(source: Source, findings: Findings) -> tuple[set[str], Objects | None]:
    """Names of the objects, and what became of these; None where that is not known."""
    nothing: tuple[set[str], Objects | None] = set(), None
    source.labels = source.classes
    if not source.cfg.get("ann_file"):
        findings.problem(source.place, "ann_file is not set. Name the list of images.")
        return nothing
    folder = source.path(source.prefix("sub_data_root"))
    if not folder.is_dir():
        key, what = "data_prefix.sub_data_root", "The folder"
        findings.problem(source.place, missing_path(source, folder, key, what))
        return nothing
    names = read_lines(source, findings, "The list of images", stripped=False)
    images = folder / source.option("img_subdir", "JPEGImages")
    xmls = folder / source.option("ann_subdir", "Annotations")
    for path, key, what in (
        (images, "img_subdir", "The image folder"),
        (xmls, "ann_subdir", "The annotation folder"),
    ):
        if not path.is_dir():
            findings.problem(source.place, missing_path(source, path, key, what))
            names = None
    if names is None:
        return nothing
    if double := [name for name, number in Counter(names).items() if number > 1]:
        findings.notice(
            source.place,
            f"{source.path(source.cfg['ann_file'])} names {len(double)} images more "
            f"than once, the first is {double[0]}.",
        )
    source.images = [str(_image(source, name)) for name in names]
    hint = _hint(names) or _other_suffix(source, images, names[0])
    check_files(source, findings, source.images, "images", hint)
    return _check_xmls(source, findings, xmls, names)


def _check_xmls(
    source: Source, findings: Findings, folder: Path, names: list[str]
) -> tuple[set[str], Objects | None]:
    """Names that occur, and what became of the objects; None if that is not known."""
    file = str(source.path(source.cfg["ann_file"]))
    found = Objects(file, source.classes or ())
    files: dict[str, _Content | None] = {}
    try:
        for name, content in _contents(source, folder, names):
            files[name] = content
    except ValueError as error:
        findings.problem(source.place, f"{error} Mend or delete it.")
        return set(), None
    if missing := [name for name, content in files.items() if content is None]:
        findings.problem(
            source.place,
            f"{len(missing)} of {len(files)} images looked at have no XML file, the "
            f"first is {folder / f'{missing[0]}.xml'}. Complete the annotations, or "
            f"take the names out of the list.{_hint(names)}",
        )
        return set(), None
    read = {name: content for name, content in files.items() if content is not None}
    for name, (size, objects) in read.items():
        found.images += 1
        _count(source, found, folder / f"{name}.xml", size, objects)
    if number := found.left_out["reversed"]:
        findings.problem(
            source.place,
            f"{number} boxes in {file} have xmin above xmax or ymin above ymax, which "
            f"makes the loss NaN; the first: {found.first['reversed']}. Exchange them.",
        )
        return set(), None
    found.complete = len(files) == len(set(names))
    if not found.complete:
        found.file = f"a sample of {file}"
    report_objects(source, findings, found)
    stated = [
        (_image(source, name), size, [box for _, _, box in objects])
        for name, (size, objects) in read.items()
        if all(size)  # some tools write 0 x 0
    ]
    check_sizes(source, findings, file, spread(stated, NUM_SIZES))
    return {name for _, objects in read.values() for name, _, _ in objects}, found


def _contents(
    source: Source, folder: Path, names: list[str]
) -> Iterator[tuple[str, _Content | None]]:
    """Read a sample, and more where it lacks a class to be trained; None: no file."""
    sample = spread(list(dict.fromkeys(names)), NUM_XMLS)
    rest = sorted(set(names).difference(sample))
    present: set[str] = set()
    end = time.monotonic() + SECONDS
    for looked, name in enumerate([*sample, *rest]):
        settled = not source.training or present.issuperset(source.classes or ())
        if time.monotonic() > end or (looked >= len(sample) and settled):
            return
        path = folder / f"{name}.xml"
        try:
            if not path.is_file():  # opening a pipe would wait
                raise FileNotFoundError
            content = _read(path)
        except FileNotFoundError:
            yield name, None
            continue
        except (ET.ParseError, ValueError, TypeError, LookupError) as error:
            raise UserValueError(f"{path} is not a VOC annotation: {error}.") from error
        present.update(label for label, _, _ in content[1])
        yield name, content


def _hint(names: list[str]) -> str:
    if all(len(name.split()) == 2 for name in names):
        return " The list has two columns, as those of single classes: take another."
    return ""


def _other_suffix(source: Source, folder: Path, name: str) -> str:
    """What to set where the first image has another suffix than is looked for."""
    if Path(name).suffix.lower() in IMAGE_EXTENSIONS:
        return " The names in the list have suffixes: leave them out."
    if _image(source, name).is_file():
        return ""
    suffixes = [suffix for x in IMAGE_EXTENSIONS for suffix in (x, x.upper())]
    for suffix in suffixes:
        if (folder / f"{name}{suffix}").is_file():
            return f" There is {name}{suffix}: set img_suffix={suffix}."
    return ""


def _image(source: Source, name: str) -> Path:
    folder = source.path(source.prefix("sub_data_root"))
    subdir = source.option("img_subdir", "JPEGImages")
    return folder / subdir / f"{name}{source.option('img_suffix', '.jpg')}"


def _count(
    source: Source,
    found: Objects,
    path: Path,
    size: tuple[int, int],
    objects: list[tuple[str, bool, list[float]]],
) -> None:
    """Count the objects of a file by the rules of mmdet's ``XMLDataset``.

    Difficult ones are not scored. They are learnt from by our own class only.
    """
    skips_difficult = not source.training or not source.learns_difficult
    for name, difficult, box in objects:
        left, upper, right, lower = box
        found.total += 1
        example = f"{path}, box {box}"
        if found.classes and name not in found.classes:
            found.leave_out("other", f"{name!r} in {path}")
            continue
        found.used += 1
        if right < left or lower < upper:
            found.leave_out("reversed", example, name)
            continue
        if right <= 1 and lower <= 1:
            found.leave_out("relative", example, name)
            continue
        # VOC counts from 1; tools that count from 0 are common.
        outside = size[0] and (right > size[0] + 1 or lower > size[1] + 1)
        if outside or min(left, upper) < 0 or right <= left or lower <= upper:
            found.beyond += 1
            found.first.setdefault("beyond", example)
        if difficult and skips_difficult:
            found.leave_out("difficult", example, name)
            continue
        found.counts[name] += 1
        found.with_objects.add(path)


def _read(path: Path) -> _Content:
    """Width and height, and name, difficulty and corners of each object.

    Raises:
        ValueError: What mmdet could not read either, and the like.
    """
    root = ET.parse(path).getroot()
    width, height = (_whole(root, f"size/{side}") for side in ("width", "height"))
    objects = []
    for node in root.findall("object"):
        name = node.findtext("name")
        corners = [
            node.findtext(f"bndbox/{c}") for c in ("xmin", "ymin", "xmax", "ymax")
        ]
        if name is None or None in corners:
            raise UserValueError("an object has no name or no complete bndbox")
        box = [float(corner or "") for corner in corners]
        if not all(map(math.isfinite, box)):
            raise UserValueError(f"the bndbox {box} is not finite")
        difficult = bool(_whole(node, "difficult"))
        objects.append((name, difficult, box))
    return (width, height), objects


def _whole(node: ET.Element, tag: str) -> int:
    text = node.findtext(tag, "0")
    try:
        return int(text)
    except ValueError:
        raise UserValueError(f"<{tag}> is {text!r}, not a whole number") from None
