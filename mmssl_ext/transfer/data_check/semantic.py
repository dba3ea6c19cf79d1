"""Check of segmentation data: folders of images and of label maps."""

from __future__ import annotations

import logging
from pathlib import Path

from mmssl_ext.datasets.listing import IMAGE_EXTENSIONS
from mmssl_ext.datasets.walk import ImageWalk

from .base import (
    Findings,
    Source,
    check_files,
    listed,
    missing_files,
    missing_path,
    read_lines,
)
from .images import look_at_files, note_links
from .labels import Pair, Pixels, check_labels


def check_semantic(sources: list[Source], findings: Findings) -> None:
    """Check folders, lists, that each image has a label map, and the labels."""
    found = [(source, _check(source, findings)) for source in sources]
    sound = [(source, pairs) for source, pairs in found if pairs]
    number = _check_heads(sources[0], findings)
    if not sound:
        return
    source = sources[0]
    classes = source.classes or tuple(map(str, range(number or 0)))
    if number is not None and len(classes) != number:
        return  # has been said
    head = _head(source)
    ignore = (head or source.cfg).get("ignore_index", 255)
    reduced = bool(source.option("reduce_zero_label", False))
    check_labels(sound, Pixels(classes, ignore, reduced), findings)


def _head(source: Source) -> dict:
    """The last decode head, which gives the labels."""
    head = source.model.get("decode_head")
    head = head[-1] if isinstance(head, (list, tuple)) and head else head
    return head if isinstance(head, dict) else {}


def _check_heads(source: Source, findings: Findings) -> int | None:
    """The number of classes of the head, where it is known."""
    head = _head(source)
    number = head.get("num_classes")
    classes = source.classes
    if number and classes and len(classes) != number:
        findings.problem(
            source.place,
            f"`classes` has {len(classes)} names, but model.decode_head.num_classes is "
            f"{number}.",
        )
    preprocessor = source.model.get("data_preprocessor") or {}
    fill = preprocessor.get("seg_pad_val", 255)
    pads = preprocessor.get("size") or preprocessor.get("size_divisor")
    if pads and number and fill >= number and fill != head.get("ignore_index", 255):
        findings.problem(
            source.place,
            f"model.data_preprocessor.seg_pad_val is {fill}, which is neither a class "
            f"nor ignored: set it to {head.get('ignore_index', 255)}.",
        )
    losses = head.get("loss_decode") or {"type": "CrossEntropyLoss"}
    losses = losses if isinstance(losses, (list, tuple)) else [losses]
    softmax = all(
        str(loss.get("type")).rpartition(".")[2] == "CrossEntropyLoss"
        and not loss.get("use_sigmoid")
        for loss in losses
    )
    if number == 1 and softmax:
        findings.problem(
            source.place,
            "One class alone cannot be learnt: under softmax it has the probability 1 "
            "everywhere. Name the background too, classes=(background,"
            f"{(classes or ('object',))[0]}), with the labels 0 and 1.",
        )
    return number


def _check(source: Source, findings: Findings) -> list[Pair]:
    """Images and their label maps; nothing where they cannot be used."""
    source.labels = source.classes
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
            files = [images / f"{name}{image_suffix}" for name in names]
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
        return []
    if not names or not complete:
        return []
    source.images = [f"{images / name}{image_suffix}" for name in names]
    missing = missing_files([f"{labels / name}{label_suffix}" for name in names])
    if missing:
        findings.problem(
            source.place,
            f"{len(missing)} of {len(names)} images looked at have no label map, the "
            f"first is {missing[0]}. Correct seg_map_suffix or data_prefix."
            f"seg_map_path, or complete the data.{_train_ids(Path(missing[0]))}",
        )
        return []
    if not source.cfg.get("ann_file"):
        _check_left_out(source, findings, images, labels, names)
    return [
        (images / f"{name}{image_suffix}", labels / f"{name}{label_suffix}")
        for name in names
    ]


def _check_left_out(
    source: Source, findings: Findings, images: Path, labels: Path, names: list[str]
) -> None:
    """Files of a folder that no image and label map is made of."""
    image_suffix = source.option("img_suffix", ".jpg")
    label_suffix = source.option("seg_map_suffix", ".png")
    if labels.is_relative_to(images):
        return  # what is what cannot be told
    used = {f"{name}{image_suffix}" for name in names}
    walk = ImageWalk(str(images), IMAGE_EXTENSIONS, hidden_folders=True)
    others = [name for name in walk if name not in used]
    if others:
        findings.notice(
            source.place,
            f"{len(others)} images in {images} do not end in '{image_suffix}' and are "
            f"left out, the first is {min(others)}.",
        )
    maps = ImageWalk(str(labels), (label_suffix.lower(),), hidden_folders=True)
    extra = {n.removesuffix(label_suffix) for n in maps if n.endswith(label_suffix)}
    extra.difference_update(names)
    if extra:
        findings.notice(
            source.place,
            f"{len(extra)} label maps in {labels} have no image, the first is "
            f"{min(extra)}{label_suffix}.",
            logging.INFO,
        )


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
