"""Broken data is named, with its file, before anything is built."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmssl_ext.datasets.demo.shapes import CLASSES
from mmssl_ext.errors import ConfigError
from mmssl_ext.run.launch import load_config, prepare
from mmssl_ext.transfer.data_check.check import check_data
from tests.harness import REPO

from .annotations import (
    coco_config,
    coco_set,
    json_path,
    noise,
    passes,
    refused,
    segmentation_config,
    segmentation_set,
    turn,
    voc_config,
    voc_set,
)

SETS = {
    "coco": (coco_set, coco_config, "train2017"),
    "voc": (voc_set, voc_config, "VOC2007/JPEGImages"),
    "segmentation": (segmentation_set, segmentation_config, "img/train"),
}


VOC_LISTS = dict(
    release="VOC2007",
    train_splits=[("ImageSets/Segmentation/train.txt", "SegmentationClass")],
)


@pytest.mark.parametrize(
    ("config", "root", "options"),
    [
        (
            "detection/faster_rcnn_r50_c4_voc0712.py",
            "VOCdevkit",
            dict(train_splits=[("VOC2007", "trainval")]),
        ),
        ("detection/mask_rcnn_r50_fpn_coco_1x.py", "coco", {}),
        ("segmentation/fcn_r50_voc12aug.py", "VOCdevkit", VOC_LISTS),
        (
            "segmentation/upernet_r50_cityscapes_40k.py",
            "cityscapes",
            dict(seg_map_suffix="_gtFine_demoIds.png"),
        ),
    ],
)
def test_sound_data_passes_in_silence(config, root, options, demo):
    classes = list(CLASSES)
    if "segmentation" in config:
        classes.insert(0, "background")
    options = options | dict(data_root=str(demo / root), classes=classes)
    assert check_data(load_config(REPO / "configs/transfer" / config, options)) == []


def test_all_problems_come_in_one_error(tmp_path):
    root = coco_set(tmp_path / "coco")
    train, val = json_path(root), json_path(root, "val2017")
    train.unlink()
    val.write_text('{"images": [')
    message = refused(
        coco_config(root),
        f"train_dataloader.dataset: The annotation file {train} does not",
        f"val_dataloader.dataset: {val} is not valid JSON",
    )
    # The test data are the validation data: read and reported once.
    assert message.count("\n") == 1


def test_a_file_is_read_once_for_all_parts(tmp_path, monkeypatch):
    cfg = coco_config(coco_set(tmp_path / "coco"))
    source = cfg.train_dataloader.dataset
    again = dict(source, data_prefix=dict(img="val2017"), filter_cfg=None)
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[source, again])
    read, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(1) or loads(text))
    message = refused(cfg, "datasets[1]: All 6 images of")
    assert len(read) == 2 and "datasets[0]" not in message  # of training, validation


@pytest.mark.parametrize("config", [config for _, config, _ in SETS.values()])
def test_missing_root_is_said_once(config, tmp_path):
    root = tmp_path / "elsewhere"
    message = refused(
        config(root),
        f"The data root {root}",
        "does not exist",
        "data_root=FOLDER",
        "train_dataloader.dataset",
        "val_dataloader.dataset",
    )
    assert message.count("\n") == 0
    with pytest.raises(ConfigError, match="The data root"):
        prepare(config(root), work_dir=str(tmp_path / "run"))


# Classification


@pytest.fixture
def root(tmp_path):
    """Two images in each of eight class folders."""
    rng = np.random.default_rng(0)
    for i in range(8):
        folder = tmp_path / f"train/class{i}"
        folder.mkdir(parents=True)
        for name in ("a.jpg", "b.jpg"):
            noise(rng, 16, 16).save(folder / name)
    return tmp_path


def folders(root, num_classes=8, **dataset):
    """A classification config of mmpretrain's own types."""
    dataset = dict(type="CustomDataset", data_root=str(root), **dataset)
    wrapped = dict(type="RepeatDataset", times=2, dataset=dataset)
    return Config(
        dict(
            default_scope="mmpretrain",
            model=dict(head=dict(num_classes=num_classes)),
            train_dataloader=dict(dataset=wrapped),
        )
    )


def test_folders_of_classification(root):
    place = "train_dataloader.dataset.dataset: "
    cfg = folders(root, data_prefix="train")
    assert check_data(cfg) == []
    misspelt = folders(root, data_prefix="trian")
    refused(misspelt, place, f"{root}/trian", "Did you mean train")
    refused(folders(root, 7, data_prefix="train"), "8 subfolders", "num_classes is 7")
    named = dict(metainfo=dict(classes=["a"]))
    refused(folders(root, data_prefix="train", **named), "`classes` has 1 names")
    for file in (root / "train/class0").iterdir():
        file.unlink()
    passes(cfg, f"Classes without any image in {root}/train: class0.")
    (root / "bare/one/two").mkdir(parents=True)
    refused(
        folders(root, data_prefix="bare"),
        "the split is empty",
        f"{root}/bare has one subfolder, one: there is nothing to tell apart",
        f"or is {root}/bare/one the one to name?",
    )
    refused(folders(root / "bare/one", data_prefix="two"), "has no subfolders")
    refused(folders(root / "bare/one", with_label=False), "holds no images")


def test_class_folders_that_differ_between_the_sets(root):
    cfg = folders(root, data_prefix="train")
    val = dict(type="CustomDataset", data_root=str(root), data_prefix="val")
    cfg.val_dataloader = dict(dataset=val)
    shutil.copytree(root / "train", root / "val")
    passes(cfg, "8 of 8 images looked at are training images too")
    shutil.rmtree(root / "val/class0")  # mmpretrain numbers the folders that there are
    refused(cfg, "val_dataloader.dataset: The labels 0, 1, ... stand for")


def test_lists_of_classification(root):
    cfg = folders(root, data_prefix="train", ann_file="list.txt")
    refused(cfg, f"The list of images {root}/list.txt does not exist")
    for text, sentence in (
        ("class0/a.jpg\n", "Line 1 of"),
        ("class0/a.jpg 8\n", "has the label 8, but 8 classes"),
        ("missing.jpg 0\n", "All 1 images of"),
    ):
        (root / "list.txt").write_text(text)
        refused(cfg, sentence)
    (root / "list.txt").write_text("class0/a.jpg 7\n")
    assert check_data(cfg) == []


def test_images_that_suffixes_leave_out_are_said(root):
    (root / "train/class0/b.jpg").rename(root / "train/class0/b.jfif")
    cfg = folders(root, data_prefix="train")
    passes(cfg, "leaves out for their suffix (.jfif): add it to")
    cfg.train_dataloader.dataset.dataset.extensions = [".jpg", ".jfif"]
    assert check_data(cfg) == []


# What a pipeline makes of the images: upright, in 8 bits, each file once


def test_boxes_on_turned_images_are_told_of(tmp_path):
    cfg = voc_config(voc_set(tmp_path))
    for path in (tmp_path / "VOC2007/JPEGImages").glob("*.jpg"):
        turn(path, 3)
    assert {level for level, _ in check_data(cfg)} == {logging.INFO}
    passes(cfg, "4 of 4 images looked at are turned by their EXIF")


@pytest.mark.parametrize("kind", SETS)
def test_twelve_bits_of_sixteen_are_said(kind, tmp_path):
    make, config, images = SETS[kind]
    cfg = config(make(tmp_path / "set"))
    for path in (tmp_path / "set" / images).iterdir():
        values = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(path, "PNG")
    said = [text for level, text in check_data(cfg) if level == logging.WARNING]
    assert "train_dataloader" in said[0]
    assert "images looked at use less than a tenth of the range of their 16" in said[0]


def test_links_to_folders_that_are_read_anyway_are_said(root, tmp_path):
    cfg = segmentation_config(segmentation_set(tmp_path / "set"))
    images = tmp_path / "set/img/train"
    (images / "twin").symlink_to(images / "real")
    (images / "real").mkdir()
    passes(cfg, "The link twin in", "would read its images again")
    (images / "real/up").symlink_to(images)
    refused(cfg, "The link real/up in", "would walk in a circle")
    (root / "train/class0/up").symlink_to(root / "train/class0")
    refused(folders(root, data_prefix="train"), "The link up in", "in a circle")


def test_a_file_larger_than_an_image_is_refused(tmp_path):
    cfg = coco_config(coco_set(tmp_path / "coco"))
    path = tmp_path / "coco/train2017/0.png"
    with path.open("wb") as file:
        file.truncate(200 << 30)
    refused(cfg, f"{path} is no image: it has 214,748,364,800 bytes, more")


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


def test_types_are_known_by_name_before_a_toolbox_is_imported(tmp_path):
    code = f"""
import sys
from mmengine.config import Config
from mmssl_ext.errors import ConfigError
from mmssl_ext.transfer.data_check.check import check_data
data = dict(data_root={str(tmp_path)!r}, ann_file="no.json")
for scope, name in (("mmdet", "CocoDataset"), ("mmdet", "CityscapesDataset"),
                    ("mmdet", "VOCDataset"), ("mmseg", "PascalVOCDataset")):
    loader = dict(dataset=dict(data, type=name))
    try:
        check_data(Config(dict(default_scope=scope, train_dataloader=loader)))
        raise AssertionError(name)
    except ConfigError as error:
        assert "no.json" in str(error), error
assert not {{"mmdet", "mmseg"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
