"""Check of segmentation data: folders of images and of label maps."""

from __future__ import annotations

import logging
from pathlib import Path

from mmssl_ext.datasets.walk import ImageWalk
from mmssl_ext.files import IMAGE_EXTENSIONS

from .files import check_files, check_images, look_at_files, note_links, read_names
from .labels import Pair, Pixels, count_pixels
from .source import Fault, Source, listed, need_folders


def read(source: Source) -> list[Pair]:
    """Check folders, lists and that each image has a label map."""
    _check_head(source)
    source.labels, known = source.classes, source.known_classes
    if strange := [c for c in source.classes or () if known and c not in known]:
        source.problem(
            f"{listed(strange)}: named in metainfo.classes, but no class of "
            f"{source.cfg['type']}. Use the type BaseSegDataset for other classes."
        )
    images = source.prefix("img_path", "img")
    labels = source.prefix("seg_map_path")
    is_list = source.cfg.get("ann_file") and not source.ann_file.is_dir()
    names = read_names(source) if is_list else []
    need_folders(
        (images, "data_prefix.img_path", "The image folder"),
        (labels, "data_prefix.seg_map_path", "The folder of label maps"),
    )
    image_suffix = source.option("img_suffix", ".jpg")
    label_suffix = source.option("seg_map_suffix", ".png")
    if not is_list:
        names = _names_below(source, images, image_suffix)
    paths = [f"{images / name}{image_suffix}" for name in names]
    maps = [f"{labels / name}{label_suffix}" for name in names]
    if is_list:
        check_images(source, paths, "images")
    source.images = paths
    ids = Path(maps[0].replace("labelTrainIds", "labelIds"))
    hint = ""
    if "labelTrainIds" in label_suffix and ids.is_file():
        hint = (
            " The *_labelIds.png are there: write the others by cityscapesscripts' "
            "createTrainIdLabelImgs."
        )
    if not check_files(source, maps, f"label maps in {labels}", hint):
        raise Fault
    if not is_list:
        _check_left_out(source, images, labels, names)
    return [(source, Path(i), Path(m)) for i, m in zip(paths, maps, strict=True)]


def report(parts: list[list[Pair]]) -> None:
    """Count the pixels of the classes in all data sets of a dataloader."""
    source = parts[0][0][0]
    head = _head(source)
    number = head.get("num_classes")
    classes = source.classes or tuple(map(str, range(number or 0)))
    if number in (None, len(classes)):  # else it has been said
        ignore = (head or source.cfg).get("ignore_index", 255)
        reduced = bool(source.option("reduce_zero_label", False))
        count_pixels(parts, Pixels(classes, ignore, reduced))


def _head(source: Source) -> dict:
    """The last decode head, which gives the labels."""
    head = source.model.get("decode_head")
    head = head[-1] if isinstance(head, (list, tuple)) and head else head
    return head if isinstance(head, dict) else {}


def _check_head(source: Source) -> None:
    head, classes = _head(source), source.classes
    number, ignore = head.get("num_classes"), head.get("ignore_index", 255)
    if number and classes and len(classes) != number:
        source.problem(
            f"`classes` has {len(classes)} names, but model.decode_head.num_classes is "
            f"{number}."
        )
    preprocessor = source.model.get("data_preprocessor") or {}
    fill = preprocessor.get("seg_pad_val", 255)
    pads = preprocessor.get("size") or preprocessor.get("size_divisor")
    if pads and number and fill >= number and fill != ignore:
        source.problem(
            f"model.data_preprocessor.seg_pad_val is {fill}, which is neither a class "
            f"nor ignored: set it to {ignore}."
        )
    losses = head.get("loss_decode") or {"type": "CrossEntropyLoss"}
    losses = losses if isinstance(losses, (list, tuple)) else [losses]
    softmax = all(
        str(loss.get("type")).rpartition(".")[2] == "CrossEntropyLoss"
        and not loss.get("use_sigmoid")
        for loss in losses
    )
    if number == 1 and softmax:
        source.problem(
            "One class alone cannot be learnt: under softmax it has the probability 1 "
            "everywhere. Name the background too, classes=(background,"
            f"{(classes or ('object',))[0]}), with the labels 0 and 1."
        )


def _below(folder: Path, *suffixes: str) -> ImageWalk:
    return ImageWalk(str(folder), [s.lower() for s in suffixes], hidden_folders=True)


def _names_below(source: Source, folder: Path, suffix: str) -> list[str]:
    """Names of the files below a folder without their suffix, as mmseg lists them."""
    walk = _below(folder, suffix)
    names = sorted(name.removesuffix(suffix) for name in walk if name.endswith(suffix))
    note_links(source, walk)
    if not names:
        raise Fault(
            f"{folder} holds no file that ends in '{suffix}': the split is empty. "
            "Correct data_prefix.img_path or img_suffix."
        )
    look_at_files(source, [folder / f"{name}{suffix}" for name in names])
    return names


def _check_left_out(
    source: Source, images: Path, labels: Path, names: list[str]
) -> None:
    """Say which files of the folders make no pair."""
    if labels.is_relative_to(images):
        return  # what is what cannot be told
    suffix = source.option("img_suffix", ".jpg")
    used = {f"{name}{suffix}" for name in names}
    if others := set(_below(images, *IMAGE_EXTENSIONS)).difference(used):
        source.notice(
            f"{len(others)} images in {images} do not end in '{suffix}' and are left "
            f"out, the first is {min(others)}."
        )
    suffix = source.option("seg_map_suffix", ".png")
    maps = {name for name in _below(labels, suffix) if name.endswith(suffix)}
    if maps := maps.difference(f"{name}{suffix}" for name in names):
        source.notice(
            f"{len(maps)} label maps in {labels} have no image, the first is "
            f"{min(maps)}.",
            logging.INFO,
        )
