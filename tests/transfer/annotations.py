"""Tiny sets to damage, in the formats of COCO, VOC and mmseg, and their configs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer.data_check.check import check_data
from tests.harness import REPO

MASK = REPO / "configs/transfer/detection/mask_rcnn_r50_fpn_coco_1x.py"
VOC = REPO / "configs/transfer/detection/faster_rcnn_r50_c4_voc0712.py"
FCN = REPO / "configs/transfer/segmentation/fcn_r50_cityscapes_40k.py"
CLASSES = ("disk", "square")
SEGMENTS = ("ground", "object")
WIDTH, HEIGHT = 64, 48
SIZE = (32, 24)  # width and height of scenes with a label map
NAMES = {"train2017": range(6), "val2017": range(100, 104)}
SMALL = dict(checkpoint=None, depth=18, base_channels=16, num_workers=0)
_OBJECT = (
    "<object><name>{name}</name><difficult>{hard}</difficult><bndbox>"
    "<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)

Edit = Callable[[dict], Any]


def said(cfg: Config) -> tuple[bool, str]:
    """Whether a config is refused, and all that the check says."""
    try:
        return False, "\n".join(sentence for _, sentence in check_data(cfg))
    except ConfigError as error:
        return True, str(error)


def refused(cfg: Config, *parts: str, expected: bool = True) -> str:
    """The whole refusal; every part must stand in it."""
    is_refused, sentences = said(cfg)
    assert is_refused == expected, sentences
    for part in parts:
        assert part in sentences
    return sentences


def passes(cfg: Config, *parts: str) -> str:
    """All notices of a config that is not refused; every part must stand in them."""
    return refused(cfg, *parts, expected=False)


def noise(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """An image that is not dark."""
    return Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8))


def turn(path: Path, tag: int = 6) -> None:
    """Let EXIF turn an image, by a quarter if not told otherwise."""
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.open(path).save(path, "JPEG", exif=exif.tobytes())


# COCO


def coco_set(root: Path) -> Path:
    """Six images to train on and four to validate, each with a disk and a square."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, numbers in NAMES.items():
        (root / split).mkdir()
        content: dict[str, list] = dict(images=[], annotations=[], categories=[])
        for i, name in enumerate(CLASSES, 1):
            content["categories"].append(dict(id=i, name=name))
        for number in numbers:
            noise(rng, WIDTH, HEIGHT).save(root / split / f"{number}.png")
            content["images"].append(
                dict(id=number, file_name=f"{number}.png", width=WIDTH, height=HEIGHT)
            )
            for category in (1, 2):
                x, y = (int(v) for v in rng.integers(20, 28, 2))
                right, lower = x + 16, y + 12
                content["annotations"].append(
                    dict(
                        id=len(content["annotations"]) + 1,
                        image_id=number,
                        category_id=category,
                        iscrowd=0,
                        bbox=[x, y, 16, 12],
                        area=192,
                        segmentation=[[x, y, right, y, right, lower, x, lower]],
                    )
                )
        json_path(root, split).write_text(json.dumps(content))
    return root


def json_path(root: Path, split: str = "train2017") -> Path:
    """The annotation file of a split."""
    return root / f"annotations/instances_{split}.json"


def edit(root: Path, change: Edit, *splits: str) -> None:
    """Change the annotation files, of both splits if none is named."""
    for split in splits or tuple(NAMES):
        path = json_path(root, split)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


def each(part: str = "annotations", /, **values: Any) -> Edit:
    """An edit that sets keys of all entries; a function is given the entry."""

    def change(content: dict) -> None:
        for entry in content[part]:
            for key, value in values.items():
                entry[key] = value(entry) if callable(value) else value

    return change


def first(part: str = "annotations", /, **values: Any) -> Edit:
    """An edit that sets keys of the first entry; ``...`` deletes one."""

    def change(content: dict) -> None:
        for key, value in values.items():
            content[part][0][key] = value
            if value is ...:
                del content[part][0][key]

    return change


def config_at(root: Path, path: Path, options: dict) -> Config:
    """A config for the data of a folder, read once for all folders."""
    cfg = load_config(path, {"data_root": "/DATA", **options})

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: put(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(put(v) for v in value)
        return value.replace("/DATA", str(root)) if isinstance(value, str) else value

    return Config(put(cfg.to_dict()), filename=cfg.filename)


def coco_config(root: Path, path: Path = MASK, **options: Any) -> Config:
    """The Mask R-CNN of the package on such a set."""
    return config_at(root, path, {**SMALL, "classes": CLASSES, **options})


# VOC


def xml(*objects: Any, size: tuple = (40, 30)) -> str:
    """An annotation; an object is its name, its corners, and 1 if it is difficult."""
    body = "".join(
        _OBJECT.format(*corners, name=name, hard=hard[0] if hard else 0)
        for name, corners, *hard in objects
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{body}</annotation>"
    )


BOTH = (("disk", (3, 3, 20, 20)), ("square", (20, 5, 39, 29)))


def voc_set(root: Path) -> Path:
    """Four images to train on and two to test, each with a disk and a square."""
    rng = np.random.default_rng(0)
    folder = root / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for i in range(6):
        noise(rng, 40, 30).save(folder / f"JPEGImages/{i}.jpg")
    write_xml(root, xml(*BOTH))
    (folder / "ImageSets/Main/trainval.txt").write_text("0\n1\n2\n3\n")
    (folder / "ImageSets/Main/test.txt").write_text("4\n5\n")
    return root


def write_xml(root: Path, text: str, numbers: Iterable[int] = range(6)) -> None:
    """Write the annotations of some images."""
    for i in numbers:
        (root / f"VOC2007/Annotations/{i}.xml").write_text(text)


def voc_config(root: Path, *splits: str, **options: Any) -> Config:
    """The Faster R-CNN of the package on such a set."""
    lists = [("VOC2007", split) for split in splits or ("trainval",)]
    options = dict(classes=CLASSES, train_splits=lists) | options
    return config_at(root, VOC, dict(checkpoint=None, **options))


# Label maps


def segmentation_set(
    root: Path, maps: Callable = lambda labels, i: labels, number: int = 6
) -> Path:
    """Scenes with an object each; ``maps`` changes the label map of the i-th."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "img" / split).mkdir(parents=True)
        (root / "lab" / split).mkdir(parents=True)
        for i in range(number):
            noise(rng, *SIZE).save(root / f"img/{split}/{i}.png")
            labels = np.zeros(SIZE[::-1], np.uint8)
            labels[8:16, 4:20] = 1
            changed = maps(labels, i)
            if isinstance(changed, np.ndarray):
                changed = Image.fromarray(changed)
            # PNG holds no negative numbers; PIL goes by the content.
            kind = "TIFF" if changed.mode == "I" else None
            changed.save(root / f"lab/{split}/{i}.png", kind)
    return root


def segmentation_options(root: Path, **options: Any) -> dict[str, Any]:
    """Variables of the FCN of the package for such a set."""
    paths = {
        f"{split}_{kind}": f"{folder}/{split}"
        for split in ("train", "val")
        for kind, folder in (("images", "img"), ("labels", "lab"))
    }
    suffixes = dict(img_suffix=".png", seg_map_suffix=".png")
    sizes = dict(crop_size=(16, 16), scale=SIZE)
    every = dict(data_root=str(root), classes=SEGMENTS, **paths, **suffixes)
    return every | SMALL | sizes | options


def segmentation_config(root: Path, **options: Any) -> Config:
    """The FCN of the package on such a set."""
    given = segmentation_options(root, **options)
    del given["data_root"]
    return config_at(root, FCN, given)
