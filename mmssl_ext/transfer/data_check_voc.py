"""Check of data sets in the layout of VOC: a list of names and an XML file each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from .data_check_base import (
    NUM_FILES,
    Findings,
    Source,
    check_files,
    listed,
    missing_path,
    read_lines,
    spread,
    unknown_classes,
)
from .data_check_coco import report_boxes

NUM_XMLS = 2000  # a sample; all are read where it lacks a class to be trained
SECONDS = 20  # for the XML files of one data set


def check_voc(sources: list[Source], findings: Findings) -> None:
    """Check lists, XML files and classes; all data sets of one dataloader together."""
    results = [_check(source, findings) for source in sources]
    names = {name for found, _ in results for name in found}
    if not names:
        return  # what is wrong has been said
    classes = sources[0].classes or ()
    missing = [name for name in classes if name not in names]
    places = ", ".join(source.place for source in sources)
    lists = listed(source.path(source.cfg["ann_file"]) for source in sources)
    sentence = unknown_classes(missing, sorted(names), f"the objects of {lists}")
    # A rare class may be absent from a small validation split, or from a sample.
    if missing and sources[0].training and all(complete for _, complete in results):
        findings.problem(places, sentence)
    elif missing:
        findings.notice(places, sentence)
    elif classes and (extra := sorted(names.difference(classes))):
        findings.notice(
            places,
            f"Objects of {lists} that are not in `classes` are left out: "
            f"{listed(extra)}.",
        )


def _check(source: Source, findings: Findings) -> tuple[set[str], bool]:
    """Names of the objects, and whether every XML file of the split was read."""
    nothing: tuple[set[str], bool] = set(), False
    if not source.cfg.get("ann_file"):
        findings.problem(source.place, "ann_file is not set. Name the list of images.")
        return nothing
    folder = source.path(source.prefix("sub_data_root"))
    if not folder.is_dir():
        key, what = "data_prefix.sub_data_root", "The folder"
        findings.problem(source.place, missing_path(source, folder, key, what))
        return nothing
    names = read_lines(source, findings, "The list of images")
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
    suffix = source.option("img_suffix", ".jpg")
    files = [images / f"{name}{suffix}" for name in names[:NUM_FILES]]
    check_files(source, findings, files, "images")
    return _check_xmls(source, findings, xmls, names)


def _check_xmls(
    source: Source, findings: Findings, folder: Path, names: list[str]
) -> tuple[set[str], bool]:
    sample = spread(names, NUM_XMLS)
    rest = sorted(set(names).difference(sample))
    classes = source.classes
    found: set[str] = set()
    bad: list[str] = []
    missing: list[Path] = []
    read = with_boxes = 0
    end = time.monotonic() + SECONDS
    looked = 0
    for name in [*sample, *rest]:
        path = folder / f"{name}.xml"
        settled = not source.training or found.issuperset(classes or ())
        if time.monotonic() > end or (looked >= len(sample) and settled):
            break
        looked += 1
        if not path.is_file():  # opening a pipe would wait
            missing.append(path)
            continue
        try:
            root = ET.parse(path).getroot()
            objects = list(_objects(root))
            size = [
                int(root.findtext(f"size/{side}", "0")) for side in ("width", "height")
            ]
        except (ET.ParseError, ValueError, TypeError, LookupError) as error:
            findings.problem(
                source.place,
                f"{path} is not a VOC annotation: {error}. Mend or delete it.",
            )
            return set(), False
        read += 1
        labels = {label for label, _ in objects}
        found |= labels
        with_boxes += bool(labels if classes is None else labels.intersection(classes))
        for _, (left, upper, right, lower) in objects:
            # VOC counts from 1; tools that count from 0 are common.
            outside = min(left, upper) < 0 or (
                size[0] and (right > size[0] + 1 or lower > size[1] + 1)
            )
            if outside or right <= left or lower <= upper:
                bad.append(f"{path}, box {[left, upper, right, lower]}")
    if missing:
        findings.problem(
            source.place,
            f"{len(missing)} of {looked} images looked at have no XML file, the "
            f"first is {missing[0]}. Complete the annotations, or take the names out "
            "of the list.",
        )
        return set(), False
    file = str(source.path(source.cfg["ann_file"]))
    if read < len(names):
        file = f"a sample of {file}"
    report_boxes(
        source, findings, file, read, with_boxes, len(bad), bad[0] if bad else ""
    )
    return found, read == len(names)


def _objects(root: ET.Element) -> Iterator[tuple[str, list[float]]]:
    for node in root.findall("object"):
        name = node.findtext("name")
        corners = [
            node.findtext(f"bndbox/{c}") for c in ("xmin", "ymin", "xmax", "ymax")
        ]
        if name is None or None in corners:
            raise ValueError("an object has no name or no complete bndbox")
        yield name, [float(corner or "") for corner in corners]
