"""What a pipeline makes of the images: upright, in 8 bits, each file once."""

import logging

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.transfer.data_check.check import check_data
from tests.transfer.test_data_check import (  # noqa: F401  # fixtures
    COCO,
    SEG_CITY,
    SEG_VOC,
    VOC,
    data,
    drawn,
    folders,
    load,
    refused,
    texts,
)


@pytest.fixture
def turned(data):  # noqa: F811
    """The first training image, stored 90 x 60, to be turned by a quarter."""
    voc = data / "VOCdevkit/VOC2007"
    name = (voc / "ImageSets/Segmentation/train.txt").read_text().split()[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    image = voc / f"JPEGImages/{name}.jpg"
    Image.new("RGB", (90, 60)).save(image, exif=exif)
    return image, voc / f"SegmentationClass/{name}.png"


def test_a_label_map_of_the_unturned_image_is_refused(data, turned):  # noqa: F811
    image, labels = turned
    Image.fromarray(np.ones((90, 60), np.uint8)).save(labels)  # of the upright image
    check_data(load(SEG_VOC, data))
    Image.fromarray(np.ones((60, 90), np.uint8)).save(labels)
    refused(
        load(SEG_VOC, data),
        f"{labels} is 90 x 60 pixels large, but its image {image.name} 60 x 90: EXIF "
        "turns it (orientation 6); write the image without EXIF orientation, or",
    )
    cfg = load(SEG_VOC, data)
    reader = cfg.train_dataloader.dataset.datasets[0].pipeline[0]
    reader.color_type = "color_ignore_orientation"
    check_data(cfg)


def test_boxes_on_turned_images_are_told_of(data):  # noqa: F811
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in (data / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"):
        Image.open(path).save(path, exif=exif)
    said = texts(check_data(load(VOC, data)), logging.INFO)
    assert any("16 of 16 images looked at are turned by their EXIF" in x for x in said)
    assert texts(check_data(load(VOC, data))) == []  # no warning


def darken(folder):
    """Make the images 12-bit ones in 16 bits."""
    for path in [*folder.rglob("*.jpg"), *folder.rglob("*.png")]:
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(path, "PNG")


@pytest.mark.parametrize(
    ("config", "images"),
    [
        (COCO, "coco/train2017"),
        (VOC, "VOCdevkit/VOC2007/JPEGImages"),
        (SEG_CITY, "cityscapes/leftImg8bit/train"),
    ],
)
def test_twelve_bits_of_sixteen_are_said(data, config, images):  # noqa: F811
    darken(data / images)
    said = texts(check_data(load(config, data)))
    assert any(
        "train_dataloader" in x and "16 images looked at use less than a tenth" in x
        for x in said
    )


def test_images_that_suffixes_leave_out_are_said(data):  # noqa: F811
    root = data / "imagenet"
    first = sorted((root / "train").iterdir())[0]
    for path in list(first.glob("*.jpg"))[1:]:
        path.rename(path.with_suffix(".jfif"))
    (said,) = texts(check_data(folders(root, data_prefix="train")))
    assert "leaves out for their suffix (.jfif): add it to" in said
    cfg = folders(root, data_prefix="train", extensions=[".jpg", ".jfif"])
    assert check_data(cfg) == []


def test_links_to_folders_that_are_read_anyway_are_said(data):  # noqa: F811
    images = data / "cityscapes/leftImg8bit/train"
    (images / "twin").symlink_to(images / "demo")
    said = texts(check_data(load(SEG_CITY, data)))
    (said,) = [text for text in said if "Not one pixel" not in text]  # of 19 classes
    assert "has 1 links to folders that are read anyway (twin), whose" in said
    (images / "demo" / "up").symlink_to(images)
    refused(load(SEG_CITY, data), "The link demo/up in", "would walk in a circle")
    root = data / "imagenet"
    first = sorted((root / "train").iterdir())[0]
    (first / "up").symlink_to(first)
    refused(folders(root, data_prefix="train"), "The link up in", "in a circle")


def test_a_file_larger_than_an_image_is_refused(data):  # noqa: F811
    path = next((data / "coco/train2017").iterdir())
    with path.open("wb") as file:
        file.truncate(200 << 30)
    refused(load(COCO, data), f"{path} is no image: it has 214,748,364,800 bytes, more")
