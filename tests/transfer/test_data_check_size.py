"""A label map belongs to the image as the pipeline reads it, that is upright."""

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.transfer.data_check import check_data
from tests.transfer.test_data_check import (  # noqa: F401  # fixtures
    SEG_VOC,
    data,
    drawn,
    load,
    refused,
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
