"""A tiny set in COCO's format to damage, and its config."""

from __future__ import annotations

import json
from collections.abc import Callable
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
CLASSES = ("disk", "square")
WIDTH, HEIGHT = 64, 48
NAMES = {"train2017": range(6), "val2017": range(100, 104)}

Edit = Callable[[dict], Any]


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
            pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.png")
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


def coco_config(root: Path, path: Path = MASK, **options: Any) -> Config:
    """The Mask R-CNN of the package on such a set."""
    small = dict(checkpoint=None, depth=18, base_channels=16, num_workers=0)
    options = dict(data_root=str(root), classes=CLASSES) | options
    return load_config(path, {**small, **options})


def said(cfg: Config) -> tuple[bool, str]:
    """Whether a config is refused, and all that the check says."""
    try:
        return False, "\n".join(sentence for _, sentence in check_data(cfg))
    except ConfigError as error:
        return True, str(error)
