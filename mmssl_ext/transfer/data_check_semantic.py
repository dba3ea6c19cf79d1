"""Check of segmentation data: folders of images and of label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mmssl_ext.datasets.transforms.decode import FORMATS
from mmssl_ext.datasets.walk import ImageWalk

from .data_check_base import (
    NUM_FILES,
    Findings,
    Source,
    check_files,
    listed,
    missing_path,
    read_lines,
    spread,
)
from .data_check_images import HOW, look_at_files, note_links, size_as_read

NUM_MAPS = 24  # label maps that are opened


def check_semantic(sources: list[Source], findings: Findings) -> None:
    """Check folders, lists, that each image has a label map, and the labels."""
    for source in sources:
        _check(source, findings)


def _check(source: Source, findings: Findings) -> None:
    known = getattr(source.cls, "METAINFO", {}).get("classes")
    if strange := [c for c in source.classes or () if known and c not in known]:
        findings.problem(
            source.place,
            f"{listed(strange)}: named in metainfo.classes, but no class of "
            f"{source.cfg['type']}. Use the type BaseSegDataset for other classes.",
        )
    images = source.path(source.prefix("img_path", "img"))
    labels = source.path(source.prefix("seg_map_path"))
    complete = True
    for path, key, what in (
        (images, "data_prefix.img_path", "The image folder"),
        (labels, "data_prefix.seg_map_path", "The folder of label maps"),
    ):
        if not path.is_dir():
            findings.problem(source.place, missing_path(source, path, key, what))
            complete = False
    image_suffix = source.option("img_suffix", ".jpg")
    label_suffix = source.option("seg_map_suffix", ".png")
    names: list[str] | None
    if source.cfg.get("ann_file") and not source.path(source.cfg["ann_file"]).is_dir():
        names = read_lines(source, findings, "The list of images")
        if names and complete:
            files = [images / f"{name}{image_suffix}" for name in names[:NUM_FILES]]
            check_files(source, findings, files, "images")
    elif images.is_dir():
        names = _names_below(source, findings, images, image_suffix)
        if not names:
            findings.problem(
                source.place,
                f"{images} holds no file that ends in '{image_suffix}': the split is "
                "empty. Correct data_prefix.img_path or img_suffix.",
            )
    else:
        return
    if not names or not complete:
        return
    files = [labels / f"{name}{label_suffix}" for name in spread(names, 2000)]
    missing = [path for path in files if not path.is_file()]
    if missing:
        findings.problem(
            source.place,
            f"{len(missing)} of {len(files)} images looked at have no label map, the "
            f"first is {missing[0]}. Correct seg_map_suffix or data_prefix."
            f"seg_map_path, or complete the data.{_train_ids(missing[0])}",
        )
        return
    pairs = [
        (images / f"{name}{image_suffix}", labels / f"{name}{label_suffix}")
        for name in spread(names, NUM_MAPS)
    ]
    _check_labels(source, findings, pairs)


def _names_below(
    source: Source, findings: Findings, folder: Path, suffix: str
) -> list[str]:
    """Names of the files below a folder without their suffix, as mmseg lists them."""
    walk = ImageWalk(str(folder), (suffix.lower(),), hidden_folders=True)
    names = [name[: -len(suffix)] for name in walk if name.endswith(suffix)]
    note_links(source, findings, walk)
    look_at_files(source, findings, [folder / f"{n}{suffix}" for n in sorted(names)])
    return sorted(names)


def _train_ids(path: Path) -> str:
    if "labelTrainIds" not in path.name:
        return ""
    if not path.with_name(path.name.replace("TrainIds", "Ids")).is_file():
        return ""
    return (
        " The *_labelIds.png are there: write the others by cityscapesscripts' "
        "createTrainIdLabelImgs."
    )


def _check_labels(
    source: Source, findings: Findings, pairs: list[tuple[Path, Path]]
) -> None:
    heads = source.model.get("decode_head")
    number = heads.get("num_classes") if isinstance(heads, dict) else None
    classes = source.classes
    if number and classes and len(classes) != number:
        findings.problem(
            source.place,
            f"`classes` has {len(classes)} names, but model.decode_head.num_classes is "
            f"{number}.",
        )
    number = number or len(classes or ())
    ignore = source.option("ignore_index", 255)
    reduced = source.option("reduce_zero_label", False)
    learnt = False
    for image_path, path in pairs:
        with Image.open(path, formats=FORMATS) as label_map:
            size, mode = label_map.size, label_map.mode
            if mode not in ("1", "L", "P", "I", "I;16"):
                findings.problem(
                    source.place,
                    f"{path} is a colour image ({mode}), but a label map holds one "
                    "class number per pixel: an 8-bit grey or palette PNG.",
                )
                return
            values = np.unique(np.asarray(label_map)).astype(int)
        if image_path.is_file():
            (width, height), orientation = size_as_read(source, image_path)
            if (width, height) != size:
                turned = (height, width) == size and orientation > 1
                why = f": EXIF turns it (orientation {orientation}); {HOW}"
                findings.problem(
                    source.place,
                    f"{path} is {size[0]} x {size[1]} pixels large, but its image "
                    f"{image_path.name} {width} x {height}{why if turned else ''}.",
                )
                return
        if reduced:  # 0 is ignored, the others move down
            values = np.where(values == 0, 255, values - 1)
            values[values == 254] = 255
        values = values[values != ignore]
        learnt |= bool(values.size)
        wrong = values[values >= number] if number else []
        if len(wrong):
            findings.problem(
                source.place,
                f"{path} holds the labels {listed(wrong)}"
                f"{' after reduce_zero_label' if reduced else ''}, but {number} "
                f"classes have the numbers 0 to {number - 1} and {ignore} is ignored. "
                "Correct `classes`, reduce_zero_label or "
                "ignore_index, or the label maps.",
            )
            return
    if source.training and not learnt:
        findings.problem(
            source.place,
            f"All pixels of {len(pairs)} label maps looked at are ignored ({ignore}), "
            f"the first is {pairs[0][1]}: there is nothing to learn.",
        )
