"""Writers of the demo scenes in the layouts of ImageNet, VOC, COCO and Cityscapes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .scenes import Scene
from .shapes import CLASSES

# The demo classes stand in for the eight classes of Cityscapes that have instances
# (person, rider, car, truck, bus, train, motorcycle, bicycle) and the background for
# "sky", so that stock tools and 19-class configs read the files as they are.
CITYSCAPES_IDS = (23, 24, 25, 26, 27, 28, 31, 32, 33)  # background, classes
CITYSCAPES_TRAIN_IDS = (10, 11, 12, 13, 14, 15, 16, 17, 18)
_CITY_NAME = "demo_{:06d}_000019_leftImg8bit.png"


def voc_palette() -> list[int]:
    """Return the colour map of VOC label images: 256 RGB triples in one list."""
    index = np.arange(256)
    colours = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.ravel().tolist()


def _link(source: Path, target: Path) -> None:
    """Let ``target`` share the bytes of ``source``, or copy where that fails."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _save_png(path: Path, values: np.ndarray, palette: list[int] | None = None) -> None:
    img = Image.fromarray(values)
    if palette is not None:
        img.putpalette(palette)
    img.save(path, compress_level=1)


def _elements(tag: str, fields: dict[str, Any]) -> list[str]:
    """Lines of an XML element with one element per field, in an annotation."""
    inner = [f"    <{name}>{value}</{name}>" for name, value in fields.items()]
    return [f"  <{tag}>", *inner, f"  </{tag}>"]


class LayoutWriter:
    """Writes the scenes of one split in all four layouts.

    ImageNet, VOC and COCO share one JPEG file by hard links; Cityscapes has a PNG of
    its own, as its file names demand. The split "test" is ``val`` in the latter two.
    """

    def __init__(self, root: Path, split: str) -> None:
        coco_split = "train" if split == "train" else "val"
        self.split, self.coco_split = split, coco_split
        self.imagenet = root / "imagenet" / split
        self.voc = root / "VOCdevkit" / "VOC2007"
        self.coco = root / "coco"
        self.coco_images = self.coco / f"{coco_split}2017"
        self.city = root / "cityscapes"
        self.city_images = self.city / "leftImg8bit" / coco_split / "demo"
        self.city_labels = self.city / "gtFine" / coco_split / "demo"
        folders = [self.imagenet / name for name in CLASSES]
        folders += [self.voc / name for name in ("JPEGImages", "Annotations")]
        folders += [self.voc / f"Segmentation{name}" for name in ("Class", "Object")]
        folders += [self.voc / "ImageSets" / n for n in ("Main", "Segmentation")]
        folders += [self.coco_images, self.city_images, self.city_labels]
        folders += [folder / "annotations" for folder in (self.coco, self.city)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        self._palette = voc_palette()
        self._records: list[tuple[int, set[int]]] = []  # VOC number, classes shown
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def write(self, number: int, scene: Scene) -> None:
        """Write a scene; ``number`` is unique over both splits and at least 1."""
        name = CLASSES[scene.objects[0].label]
        jpeg = self.imagenet / name / f"{name}_{number:06d}.jpg"
        Image.fromarray(scene.image).save(jpeg, quality=92)
        _link(jpeg, self.voc / "JPEGImages" / f"{number:06d}.jpg")
        _link(jpeg, self.coco_images / f"{number:012d}.jpg")
        self._write_voc(number, scene)
        self._write_cityscapes(number, scene)
        self._add_coco(number, scene)
        self._records.append((number, {o.label for o in scene.objects}))

    def _write_voc(self, number: int, scene: Scene) -> None:
        height, width, _ = scene.image.shape
        lines = [
            "<annotation>",
            "  <folder>VOC2007</folder>",
            f"  <filename>{number:06d}.jpg</filename>",
            *_elements("size", {"width": width, "height": height, "depth": 3}),
            "  <segmented>1</segmented>",
        ]
        for obj in scene.objects:
            left, upper, right, lower = obj.box
            # VOC counts pixels from 1 and includes the last one.
            box = {"xmin": left + 1, "ymin": upper + 1, "xmax": right, "ymax": lower}
            fields = {"name": CLASSES[obj.label], "pose": "Unspecified"}
            inner = _elements("object", {**fields, "truncated": 0, "difficult": 0})
            inner[-1:-1] = (f"  {line}" for line in _elements("bndbox", box))
            lines += inner
        text = "\n".join([*lines, "</annotation>\n"])
        (self.voc / "Annotations" / f"{number:06d}.xml").write_text(text)
        name = f"{number:06d}.png"
        _save_png(self.voc / "SegmentationClass" / name, scene.semantic, self._palette)
        objects = self.voc / "SegmentationObject" / name
        _save_png(objects, scene.instances, self._palette)

    def _write_cityscapes(self, number: int, scene: Scene) -> None:
        file_name = _CITY_NAME.format(number)
        stem = file_name.removesuffix("_leftImg8bit.png")
        _save_png(self.city_images / file_name, scene.image)
        semantic, instances = scene.semantic, scene.instances
        label_ids = np.array(CITYSCAPES_IDS, np.uint8)[semantic]
        train_ids = np.array(CITYSCAPES_TRAIN_IDS, np.uint8)[semantic]
        # label id * 1000 + number of the object; the label id alone without instances
        single = label_ids.astype(np.uint16)
        instance_ids = np.where(instances, single * 1000 + instances - 1, single)
        for kind, values in (
            ("labelIds", label_ids),
            ("labelTrainIds", train_ids),
            ("demoIds", semantic),  # 0 is the background, then the demo's own classes
            ("instanceIds", instance_ids.astype(np.uint16)),
        ):
            _save_png(self.city_labels / f"{stem}_gtFine_{kind}.png", values)

    def _add_coco(self, number: int, scene: Scene) -> None:
        height, width = scene.image.shape[:2]
        self._images.append({"id": number, "width": width, "height": height})
        for obj in scene.objects:
            left, upper, right, lower = obj.box
            annotation = {
                "id": len(self._annotations) + 1,
                "image_id": number,
                "category_id": obj.label + 1,
                "bbox": [left, upper, right - left, lower - upper],
                "area": int(obj.mask.sum()),
                "iscrowd": 0,
                "segmentation": [np.round(obj.outline, 2).ravel().tolist()],
            }
            self._annotations.append(annotation)

    def finish(self) -> None:
        """Write the lists of images and the JSON files."""
        split, name = self.coco_split, "instancesonly_filtered_gtFine"
        for folder, stem, file_name, ids in (
            (
                self.coco,
                f"instances_{split}2017",
                "{:012d}.jpg",
                range(len(CLASSES) + 1),
            ),
            (self.city, f"{name}_{split}", f"demo/{_CITY_NAME}", CITYSCAPES_IDS),
        ):
            content = self._coco_content(file_name, tuple(ids))
            (folder / "annotations" / f"{stem}.json").write_text(json.dumps(content))
        lines = "".join(f"{number:06d}\n" for number, _ in self._records)
        sets = self.voc / "ImageSets"
        for name in ("train", "trainval") if self.split == "train" else ("val", "test"):
            for task in ("Main", "Segmentation"):
                (sets / task / f"{name}.txt").write_text(lines)
            for label, kind in enumerate(CLASSES):
                signs = "".join(
                    f"{number:06d} {1 if label in shown else -1:2d}\n"
                    for number, shown in self._records
                )
                (sets / "Main" / f"{kind}_{name}.txt").write_text(signs)

    def _coco_content(self, file_name: str, ids: tuple[int, ...]) -> dict[str, Any]:
        """The content of a JSON file, with the class numbers ``ids``."""
        categories = [
            {"id": ids[i], "name": name, "supercategory": "demo"}
            for i, name in enumerate(CLASSES, start=1)
        ]
        return {
            "info": {"description": "mmssl_ext demo scenes"},
            "images": [
                {**i, "file_name": file_name.format(i["id"])} for i in self._images
            ],
            "annotations": [
                {**a, "category_id": ids[a["category_id"]]} for a in self._annotations
            ],
            "categories": categories,
        }
