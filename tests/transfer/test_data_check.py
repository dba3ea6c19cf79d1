"""Broken data is named, with its file, before anything is built."""

import json
import logging
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmssl_ext.datasets.demo import make_demo
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config, prepare
from mmssl_ext.transfer.data_check.check import check_data
from tests.harness import REPO

from .annotations import edit, json_path, passes, refused, turn

VOC = "detection/faster_rcnn_r50_c4_voc0712.py"
COCO = "detection/mask_rcnn_r50_fpn_coco_1x.py"
SEG_VOC = "segmentation/fcn_r50_voc12aug.py"
SEG_CITY = "segmentation/upernet_r50_cityscapes_40k.py"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "demo"
    return make_demo(root, train=16, test=8, progress=False)


@pytest.fixture
def data(drawn, tmp_path):
    """A copy to damage, by relative paths inside the test's own folder."""
    return shutil.copytree(drawn, tmp_path / "data")


def options(config, data):
    classes = tuple(json.loads((data / "demo.json").read_text())["classes"])
    return {
        VOC: dict(
            data_root=str(data / "VOCdevkit"),
            train_splits=[("VOC2007", "trainval")],
            classes=classes,
        ),
        COCO: dict(data_root=str(data / "coco"), classes=classes),
        SEG_VOC: dict(
            data_root=str(data / "VOCdevkit"),
            release="VOC2007",
            train_splits=[("ImageSets/Segmentation/train.txt", "SegmentationClass")],
        ),
        SEG_CITY: dict(data_root=str(data / "cityscapes")),
    }[config]


def load(config, data, **changes):
    path = REPO / "configs/transfer" / config
    return load_config(path, options(config, data) | changes)


def texts(notices, level=logging.WARNING):
    return [text for found, text in notices if found == level]


@pytest.mark.parametrize("config", [VOC, COCO, SEG_VOC, SEG_CITY])
def test_sound_data_passes_in_silence(config, drawn):
    own = {}
    if config in (SEG_VOC, SEG_CITY):  # the scenes show none of VOC's and Cityscapes'
        names = json.loads((drawn / "demo.json").read_text())["classes"]
        own = dict(classes=("background", *names))
    if config == SEG_CITY:
        own["seg_map_suffix"] = "_gtFine_demoIds.png"
    assert check_data(load(config, drawn, **own)) == []


@pytest.mark.parametrize("config", [VOC, COCO, SEG_VOC, SEG_CITY])
def test_missing_root_is_said_once(config, tmp_path, drawn):
    root = str(tmp_path / "elsewhere")
    message = refused(
        load(config, drawn, data_root=root),
        f"The data root {root}",
        "does not exist",
        "data_root=FOLDER",
        "train_dataloader.dataset",
        "val_dataloader.dataset",
    )
    assert message.count("\n") == 0


def test_preparation_of_a_run_checks_the_data(tmp_path, drawn):
    cfg = load(COCO, drawn, data_root=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="The data root"):
        prepare(cfg, work_dir=str(tmp_path / "run"))


def test_all_problems_come_in_one_error(data):
    train, val = (json_path(data / "coco", f"{part}2017") for part in ("train", "val"))
    train.unlink()
    val.write_text('{"images": [')
    message = refused(
        load(COCO, data),
        f"train_dataloader.dataset: The annotation file {train} does not",
        f"val_dataloader.dataset: {val} is not valid JSON",
    )
    # The test data are the validation data: read and reported once.
    assert message.count("\n") == 1


# Classification


def folders(root, num_classes=8, **dataset):
    """A classification config of mmpretrain's own types."""
    dataset = dict(type="CustomDataset", data_root=str(root), **dataset)
    return Config(
        dict(
            default_scope="mmpretrain",
            model=dict(head=dict(num_classes=num_classes)),
            train_dataloader=dict(
                dataset=dict(type="RepeatDataset", times=2, dataset=dataset)
            ),
        )
    )


def test_folders_of_classification(data, tmp_path):
    root = data / "imagenet"
    place = "train_dataloader.dataset.dataset: "
    assert check_data(folders(root, data_prefix="train")) == []
    refused(
        folders(root, data_prefix="trian"), place, f"{root}/trian", "Did you mean train"
    )
    refused(folders(root, 7, data_prefix="train"), "8 subfolders", "num_classes is 7")
    refused(
        folders(root, data_prefix="train", metainfo=dict(classes=["a"])),
        "`classes` has 1 names",
    )
    first = sorted((root / "train").iterdir())[0]
    for file in first.iterdir():
        file.unlink()
    (notice,) = texts(check_data(folders(root, data_prefix="train")))
    assert first.name in notice
    (tmp_path / "bare/a").mkdir(parents=True)
    refused(folders(tmp_path, data_prefix="bare"), "the split is empty")
    refused(folders(tmp_path / "bare", data_prefix="a"), "has no subfolders")
    refused(folders(tmp_path / "bare", with_label=False), "holds no images")


def test_class_folders_that_differ_between_the_sets(data):
    root = data / "imagenet"
    cfg = folders(root, data_prefix="train")
    cfg.val_dataloader = dict(
        dataset=dict(type="CustomDataset", data_root=str(root), data_prefix="val")
    )
    shutil.copytree(root / "train", root / "val")
    (copies,) = texts(check_data(cfg))
    assert "8 of 8 images looked at are training images too" in copies
    first = sorted((root / "val").iterdir())[0]
    shutil.rmtree(first)  # mmpretrain numbers the folders that there are
    refused(cfg, "val_dataloader.dataset: The labels 0, 1, ... stand for")
    (root / "bare/one/two").mkdir(parents=True)
    refused(
        folders(root, data_prefix="bare"),
        f"{root}/bare has one subfolder, one: there is nothing to tell apart",
        f"or is {root}/bare/one the one to name?",
    )


def test_lists_of_classification(data):
    root = data / "imagenet"
    image = next((root / "train").rglob("*.jpg")).relative_to(root / "train")
    cfg = folders(root, data_prefix="train", ann_file="list.txt")
    refused(cfg, f"The list of images {root}/list.txt does not exist")
    for text, sentence in (
        (f"{image}\n", "Line 1 of"),
        (f"{image} 8\n", "has the label 8, but 8 classes"),
        ("missing.jpg 0\n", "All 1 images of"),
    ):
        (root / "list.txt").write_text(text)
        refused(cfg, sentence)
    (root / "list.txt").write_text(f"{image} 7\n")
    assert check_data(cfg) == []


# What a pipeline makes of the images: upright, in 8 bits, each file once


def test_boxes_on_turned_images_are_told_of(data):
    for path in (data / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"):
        turn(path, 3)
    ((level, _), *_) = found = check_data(load(VOC, data))
    assert level == logging.INFO and texts(found) == []
    passes(load(VOC, data), "16 of 16 images looked at are turned by their EXIF")


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
def test_twelve_bits_of_sixteen_are_said(data, config, images):
    darken(data / images)
    said = texts(check_data(load(config, data)))
    assert any(
        "train_dataloader" in x and "16 images looked at use less than a tenth" in x
        for x in said
    )


def test_images_that_suffixes_leave_out_are_said(data):
    root = data / "imagenet"
    first = sorted((root / "train").iterdir())[0]
    for path in list(first.glob("*.jpg"))[1:]:
        path.rename(path.with_suffix(".jfif"))
    (said,) = texts(check_data(folders(root, data_prefix="train")))
    assert "leaves out for their suffix (.jfif): add it to" in said
    cfg = folders(root, data_prefix="train", extensions=[".jpg", ".jfif"])
    assert check_data(cfg) == []


def test_links_to_folders_that_are_read_anyway_are_said(data):
    images = data / "cityscapes/leftImg8bit/train"
    (images / "twin").symlink_to(images / "demo")
    said = texts(check_data(load(SEG_CITY, data)))
    (said,) = [text for text in said if "Not one pixel" not in text]  # of 19 classes
    assert "The link twin in" in said and "would read its images again" in said
    (images / "demo" / "up").symlink_to(images)
    refused(load(SEG_CITY, data), "The link demo/up in", "would walk in a circle")
    root = data / "imagenet"
    first = sorted((root / "train").iterdir())[0]
    (first / "up").symlink_to(first)
    refused(folders(root, data_prefix="train"), "The link up in", "in a circle")


def test_a_file_larger_than_an_image_is_refused(data):
    path = next((data / "coco/train2017").iterdir())
    with path.open("wb") as file:
        file.truncate(200 << 30)
    refused(load(COCO, data), f"{path} is no image: it has 214,748,364,800 bytes, more")


# What is not read


def test_what_is_unknown_or_remote_is_passed_over():
    cfg = folders("/nowhere")
    inner = cfg.train_dataloader.dataset.dataset
    inner.type = "MyDataset"
    assert check_data(cfg) == []
    inner.type = "mmdet.CocoPanopticDataset"  # has a reader of its own
    assert check_data(cfg) == []
    inner.update(type="CustomDataset", data_root="s3://bucket/images")
    assert check_data(cfg) == []
    inner.update(data_root="/nowhere", backend_args=dict(backend="petrel"))
    assert check_data(cfg) == []
    inner.pop("backend_args")
    refused(cfg, "/nowhere")
    cfg.default_scope = "mmssl_ext"
    assert check_data(cfg) == []
    assert check_data(Config(dict(default_scope="mmdet"))) == []


def test_nothing_of_the_toolboxes_is_imported(drawn):
    """Also without them the types that their configs use are known by name."""
    code = f"""
import sys
from mmengine.config import Config
from mmssl_ext.transfer.data_check import voc
from mmssl_ext.transfer.data_check.check import check_data
data = dict(type="CocoDataset", data_root={str(drawn / "coco")!r}, ann_file="no.json")
for scope, name in (("mmdet", "CocoDataset"), ("mmdet", "CityscapesDataset"),
                    ("mmdet", "VOCDataset"), ("mmseg", "PascalVOCDataset")):
    loader = dict(dataset=dict(data, type=name))
    try:
        check_data(Config(dict(default_scope=scope, train_dataloader=loader)))
    except Exception as error:
        assert type(error).__name__ == "ConfigError" and "no.json" in str(error), error
    else:
        raise AssertionError(name)
assert not {{"mmdet", "mmseg"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


@pytest.mark.alone
def test_a_large_json_is_read_once_and_fast(data, monkeypatch):
    """20,000 images and 140,000 boxes, a sixth of COCO's train2017."""

    def enlarge(content):
        image, box = content["images"][0], content["annotations"][0]
        box = box | {"segmentation": [[0, 0, 9, 0, 9, 9]]}
        content["images"] = [image | {"id": i} for i in range(20_000)]
        content["annotations"] = [
            box | {"id": i, "image_id": i % 20_000} for i in range(140_000)
        ]

    edit(data / "coco", enlarge, "train2017")
    cfg = load(COCO, data)
    source = cfg.train_dataloader.dataset
    again = dict(source, data_prefix=dict(img="val2017"), filter_cfg=None)
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[source, again])
    read = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(1) or loads(text))
    start = time.perf_counter()
    message = refused(cfg, "datasets[1]: All 20000 images of")
    assert time.perf_counter() - start < 10
    assert len(read) == 2 and "datasets[0]" not in message
