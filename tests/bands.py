"""Drawn images of five bands in 16 bits, for the tests of several folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: The whole range of 16 bits in every band, each in an order of its own: 256 x 256 x 5.
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RAMPS = np.stack(
    [RAMP, RAMP[::-1], RAMP[:, ::-1], RAMP.T, RAMP.T[::-1, ::-1].copy()], -1
)


def write_tiff(path: Path, values: np.ndarray, **options: Any) -> None:
    """Write H x W x C as the samples of a page, or what the options say."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    options = options or {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, values, **options)


def scene(rng: np.random.Generator, side: int, kind: int) -> Any:
    """Five bands of 12 bits, and where the disc is that one of them shows."""
    y, x = np.mgrid[:side, :side]
    row, column = rng.integers(side // 4, 3 * side // 4, 2)
    disc = (y - row) ** 2 + (x - column) ** 2 < (side / 5) ** 2
    values = rng.normal(800, 40, (side, side, 5))
    values[disc, kind] += 2000
    return values.clip(0, 4095).astype(np.uint16), disc


def write_classes(root: Path, each: int = 6, side: int = 40) -> Path:
    """Two folders of images that differ in the band of the disc, 3 or 4."""
    rng = np.random.default_rng(0)
    for kind in (3, 4):
        for number in range(each):
            values, _ = scene(rng, side, kind)
            write_tiff(root / f"band{kind}" / f"{number}.tif", values)
    return root


def write_labelled(root: Path, each: int = 4, side: int = 40) -> Path:
    """Images and label maps of the disc in the layout of Cityscapes."""
    rng = np.random.default_rng(1)
    for part in ("train", "val"):
        for number in range(each):
            values, disc = scene(rng, side, 4)
            write_tiff(root / "images" / part / f"{number}.tif", values)
            labels = root / "labels" / part / f"{number}.png"
            labels.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(disc.astype(np.uint8)).save(labels)
    return root


def write_boxes(root: Path, each: int = 8, side: int = 64) -> Path:
    """Images and boxes in the layout of COCO; the class is the band of the disc."""
    rng = np.random.default_rng(2)
    sizes = {"height": side, "width": side}
    images, objects = [], []
    for number in range(each):
        kind = 3 + number % 2
        values, disc = scene(rng, side, kind)
        write_tiff(root / "images" / f"{number}.tif", values)
        images.append({"id": number, "file_name": f"{number}.tif", **sizes})
        rows, columns = np.nonzero(disc)
        corner = int(columns.min()), int(rows.min())
        box = [*corner, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
        about = {"id": number + 1, "image_id": number, "category_id": kind}
        area = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        objects.append(about | area)
    names = [{"id": kind, "name": f"band{kind}"} for kind in (3, 4)]
    told = {"images": images, "annotations": objects, "categories": names}
    (root / "boxes.json").write_text(json.dumps(told))
    return root
