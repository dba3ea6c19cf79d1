"""Annotation files in COCO's format: what is trained on and scored is counted."""

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as rle

from mmssl_ext.transfer.data_check.check import check_data
from mmssl_ext.transfer.data_check.masks import _length
from mmssl_ext.transfer.data_check.splits import shared_images
from mmssl_ext.transfer.detection import CocoDetectionMetric

from .annotations import (
    CLASSES,
    HEIGHT,
    WIDTH,
    coco_config,
    coco_set,
    each,
    edit,
    json_path,
    said,
)


@pytest.fixture
def root(tmp_path):
    return coco_set(tmp_path / "coco")


def build(cfg, loader):
    from mmdet.registry import DATASETS

    init_default_scope("mmdet")
    return DATASETS.build(cfg[loader].dataset)


def perfect(cfg, root, **options):
    """AP of a detector that says of each object what it was trained to say."""
    train, val = build(cfg, "train_dataloader"), build(cfg, "val_dataloader")
    train_json = json.loads(json_path(root).read_text())
    label = {
        c["name"]: train.cat2label[c["id"]]
        for c in train_json["categories"]
        if c["id"] in train.cat2label
    }
    path = json_path(root, "val2017")
    truth = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    metric = CocoDetectionMetric(str(path), "bbox", **options)
    metric.dataset_meta = val.metainfo
    for image in truth["images"]:
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float)
        boxes[:, 2:] += boxes[:, :2]
        found = dict(
            bboxes=boxes,
            scores=torch.ones(len(own)),
            labels=torch.tensor([label[names[a["category_id"]]] for a in own]),
        )
        size = (image["height"], image["width"])
        sample = dict(img_id=image["id"], ori_shape=size, pred_instances=found)
        metric.process({}, [sample])
    return metric.evaluate(len(truth["images"]))


def reverse(content):
    content["categories"].reverse()


def exchange_ids(content):
    """Another order of the ids too: a disk is 2 in this file."""
    for category in content["categories"]:
        category["id"] = 3 - category["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 3 - annotation["category_id"]


def only_square(content):
    """A split without disks, whose file does not list the category either."""
    del content["categories"][0]
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] == 2
    ]


def zero_id(content):
    content["annotations"][0]["id"] = 0  # "not found" to pycocotools


def without_crowd(content):
    for annotation in content["annotations"]:
        del annotation["iscrowd"]  # a KeyError in pycocotools


def null_crowd(content):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = None


def text_ids(content):
    for annotation in content["annotations"]:
        annotation["id"] = f"a{annotation['id']}"


@pytest.mark.fault("R44")
@pytest.mark.parametrize(
    "change",
    [reverse, exchange_ids, only_square, zero_id, without_crowd, null_crowd, text_ids],
)
def test_a_perfect_detector_has_ap_1(root, change):
    edit(root, change, "val2017")
    cfg = coco_config(root)
    refused, sentences = said(cfg)
    assert not refused
    assert ("has no category of the name disk" in sentences) == (change is only_square)
    found = perfect(cfg, root, classwise=True)
    assert found["coco/bbox_mAP"] == 1
    assert found["coco/square_precision"] == 1


def test_the_table_of_classes_names_the_right_class(root):
    """pycocotools sorts by id; here the ids go against the order of the classes."""
    edit(root, exchange_ids)
    edit(root, lambda c: each(bbox=[0, 0, 9, 9])(c), "val2017")
    cfg = coco_config(root)
    val = build(cfg, "val_dataloader")
    assert val.cat2label == {2: 0, 1: 1}
    truth = json.loads(json_path(root, "val2017").read_text())
    metric = CocoDetectionMetric(
        str(json_path(root, "val2017")), "bbox", classwise=True
    )
    metric.dataset_meta = val.metainfo
    disk = dict(  # found right; no square is found
        bboxes=torch.tensor([[0.0, 0, 9, 9]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.long),
    )
    for image in truth["images"]:
        sample = dict(img_id=image["id"], ori_shape=(48, 64), pred_instances=disk)
        metric.process({}, [sample])
    found = metric.evaluate(4)
    assert found["coco/disk_precision"] == 1 and found["coco/square_precision"] == 0


def test_classes_without_an_object_are_named_with_the_ap(root, log):
    edit(root, only_square, "val2017")
    assert perfect(coco_config(root), root)["coco/bbox_mAP"] == 1
    assert "No object of disk in the ground truth" in log.text
    assert "AP tells of 1 of 2 classes only" in log.text


def test_labels_follow_classes_in_whatever_order(root):
    cfg = coco_config(root, classes=CLASSES[::-1])
    assert check_data(cfg) == []
    assert build(cfg, "train_dataloader").cat2label == {2: 0, 1: 1}


def test_upstream_types_are_refused_where_two_files_differ(root):
    edit(root, reverse, "val2017")
    cfg = coco_config(root)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.type = "CocoDataset"
    cfg.val_evaluator.type = cfg.test_evaluator.type = "CocoMetric"
    refused, sentences = said(cfg)
    assert refused
    assert "stand for square, disk, but in train_dataloader.dataset for" in sentences

    edit(root, reverse, "train2017")  # both alike again, but unlike `classes`
    assert not said(cfg)[0]
    cfg.val_evaluator.type = "mmssl_ext.CocoDetectionMetric"
    refused, sentences = said(cfg)
    assert refused and "CocoDetectionMetric takes the labels 0, 1, ..." in sentences


def test_classes_of_train_and_val_in_another_order_are_refused(root):
    cfg = coco_config(root)
    cfg.val_dataloader.dataset.metainfo = dict(classes=CLASSES[::-1])
    refused, sentences = said(cfg)
    assert refused and "Give both the same classes in the same order" in sentences


def test_a_class_that_is_named_twice_is_refused(root):
    refused, sentences = said(coco_config(root, classes=("disk", "square", "disk")))
    assert refused and "`classes` names disk twice" in sentences


def test_images_below_the_least_size_are_said(root):
    edit(root, lambda c: c["images"][0].update(width=30), "train2017")
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.filter_cfg.min_size = 40
    sentences = said(cfg)[1]
    assert "1 of 6 images in" in sentences and "min_size=40 and are left out" in (
        sentences
    )
    cfg.train_dataloader.dataset.filter_cfg.min_size = 50
    refused, sentences = said(cfg)
    assert refused and "smaller than filter_cfg.min_size=50" in sentences


def test_boxes_that_begin_outside_are_no_corners(root):
    edit(root, each(bbox=[-10, -10, 16, 12]))
    refused, sentences = said(coco_config(root))
    assert not refused and "12 boxes in" in sentences and "in part" in sentences


def test_heads_for_another_number_of_classes_are_refused(root):
    cfg = coco_config(root)
    cfg.model.roi_head.mask_head.num_classes = 3
    assert said(cfg) == (
        True,
        "model: roi_head.mask_head.num_classes is 3, but the data have 2 classes: "
        "disk, square.",
    )


def shifted(entry):
    x, y, w, h = entry["bbox"]
    return [x + 70, y, w, h]


def corners(entry):
    x, y, w, h = entry["bbox"]
    return [x, y, x + w, y + h]


@pytest.mark.fault("R44")
@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (dict(area=0), ["12 have an area of 0", "Write the true 'area'"]),
        (dict(iscrowd=1), ["12 have iscrowd=1", "Set 'iscrowd' to 0"]),
        (dict(ignore=1), ["12 are marked by 'ignore'"]),
        (
            dict(bbox=[0.1, 0.1, 0.5, 0.5]),
            ["12 are less than one pixel", "relative ones"],
        ),
        (dict(bbox=[30, 30, -9, -9]), ["12 are less than one pixel"]),
        (dict(bbox=shifted), ["12 lie outside of their image"]),
        (dict(bbox=corners), ["seem to be corners [x1, y1, x2, y2]", "12 of 12"]),
        (dict(category_id=7), ["12 have a category_id that 'categories' does not"]),
        (
            dict(category_id=lambda a: str(a["category_id"])),
            ["12 have a category_id", "the first: category_id '1'", "same type"],
        ),
        (
            dict(image_id=lambda a: str(a["image_id"])),
            ["12 belong to an image that it does not list (the first: image_id '0')"],
        ),
        (
            dict(segmentation=[[1, 1, 5, 5]]),
            ["12 have no usable mask", "three points or more"],
        ),
    ],
)
def test_a_set_without_one_object_to_train_on_is_refused(root, values, parts):
    edit(root, each(**values))
    refused, sentences = said(coco_config(root))
    assert refused
    assert all(part in sentences for part in parts), sentences


def test_single_losses_and_classes_without_objects_are_said(root):
    def spoil(content):
        annotations = content["annotations"]
        for a in annotations:
            a["iscrowd"] = int(a["category_id"] == 2)
        annotations[0]["area"] = 0
        annotations[2]["bbox"][2] = 0.5
        annotations[4]["category_id"] = 9

    edit(root, spoil, "train2017")
    refused, sentences = said(coco_config(root))
    assert not refused
    path = json_path(root)
    assert (
        f"Not one object of square in {path} can be learnt from: 6 have iscrowd=1"
        in (sentences)
    )
    assert f"2 boxes in {path} leave their image or have no area: 1 have an area" in (
        sentences
    )
    assert f"1 annotations in {path} are left out: 1 have a category_id" in sentences
    assert "val_dataloader" not in sentences


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_flags_are_numbers(root, key):
    """The text "0" would count as true."""
    edit(root, each(**{key: "0"}))
    refused, sentences = said(coco_config(root))
    assert refused
    assert f"the '{key}' of 12 annotations is not 0 or 1; the first is '0'" in sentences


def test_objects_that_are_annotated_twice_are_said(root):
    def double(content):
        more = [{**a, "id": a["id"] + 500} for a in content["annotations"]]
        content["annotations"] += more

    edit(root, double)
    refused, sentences = said(coco_config(root))
    assert not refused
    assert f"12 of 24 annotations in {json_path(root)} repeat another" in sentences


def test_names_in_other_case_are_likely_meant(root):
    refused, sentences = said(coco_config(root, classes=("DISK", "square")))
    assert refused
    assert "'DISK': Did you mean disk?" in sentences


def test_few_crowds_are_usual(root):
    edit(root, lambda c: c["annotations"][0].update(iscrowd=1))
    levels = [level for level, _ in check_data(coco_config(root))]
    assert levels == [logging.INFO] * 2


def test_a_validation_set_without_objects_is_warned_of(root):
    edit(root, each(iscrowd=1), "val2017")
    ((level, sentence),) = check_data(coco_config(root))
    assert level == logging.WARNING
    assert "that can be scored: of 8 annotations 8 have iscrowd=1" in sentence
    edit(root, lambda c: c.pop("annotations"), "val2017")
    assert (
        "has no 'annotations', so nothing can be scored" in said(coco_config(root))[1]
    )


def test_ids_and_names_that_are_not_unique(root):
    edit(root, each("images", id=1))
    edit(root, each(image_id=1))
    refused, sentences = said(coco_config(root))
    assert refused and "the ids of images are not unique, 1 occurs 6" in sentences


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (each("categories", id=1), "the ids of categories are not unique"),
        (lambda c: c["images"][0].update(id="0"), "numbers in part, and text in part"),
        (each("categories", name="disk"), "several categories of the name disk"),
        (lambda c: c["categories"][0].pop("id"), "1 categories in"),
        (lambda c: c["images"][0].pop("width"), "1 images in"),
        (each(bbox=lambda a: [float("nan"), 1, 2, 3]), "the first is [nan, 1, 2, 3]"),
        (each("images", file_name=lambda i: "a\\" + i["file_name"]), "has backslashes"),
        (each("images", file_name="/data/me/a.png"), "perhaps of another machine"),
        (each("images", file_name="http://a.org/a.png"), "'file_name' is an address"),
    ],
)
def test_entries_that_lead_nowhere_are_refused(root, change, part):
    edit(root, change, "train2017")
    refused, sentences = said(coco_config(root))
    assert refused and part in sentences


def test_every_image_is_looked_for(root, monkeypatch):
    monkeypatch.setattr("mmssl_ext.transfer.data_check.base.NUM_FILES", 2)
    assert check_data(coco_config(root)) == []
    (root / "train2017/5.png").unlink()
    refused, sentences = said(coco_config(root))
    assert refused
    assert f"1 of 6 images of {json_path(root)} looked for have no file" in sentences
    assert f"the first is {root}/train2017/5.png" in sentences


def test_images_that_cannot_be_read_are_named(root):
    (root / "train2017/0.png").write_bytes(b"no image")
    refused, sentences = said(coco_config(root))
    assert refused and f"{root}/train2017/0.png cannot be read" in sentences


@pytest.mark.parametrize("name", ["\ud800.png", "a\0.png", "a" * 5000])
def test_names_that_no_file_can_have(root, name):
    edit(root, each("images", file_name=name), "train2017")
    refused, sentences = said(coco_config(root))
    assert refused and "looked for have no file" in sentences


def test_an_image_with_several_entries_is_said(root):
    edit(root, each("images", file_name="0.png"), "train2017")
    assert "5 images in" in said(coco_config(root))[1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (gzip.compress, "is compressed by gzip"),
        (lambda data: b"\xef\xbb\xbf" + data, "begins with a byte order mark"),
        (lambda data: data.decode().encode("utf-16"), "is UTF-16"),
        (lambda data: data.replace(b"disk", b"d\xefsk"), "is not in UTF-8"),
        (lambda data: data[:-9], "is not valid JSON"),
    ],
)
def test_files_that_pycocotools_cannot_read(root, change, part):
    path = json_path(root)
    path.write_bytes(change(path.read_bytes()))
    refused, sentences = said(coco_config(root))
    assert refused and part in sentences and str(path) in sentences


def run_lengths(pixels, **changes):
    encoded = rle.encode(np.asfortranarray(pixels))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()} | changes


PIXELS = np.pad(np.ones((9, 9), np.uint8), ((20, HEIGHT - 29), (20, WIDTH - 29)))


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        ([1, 1, 9, 1, 9, 9], "[x, y, ...] where a list of polygons belongs"),
        ([], "no 'segmentation'"),
        ([["a"]], "is no list of polygons"),
        ("text", "neither polygons nor size and counts"),
        ({"counts": [1]}, "neither polygons nor size and counts"),
        (run_lengths(PIXELS.T), "of another size than the 'height' and 'width'"),
        (run_lengths(PIXELS, counts="04"), "does not fill its size"),
        (run_lengths(PIXELS, counts=[5, 6, 7]), "does not fill its size"),
    ],
)
def test_masks_that_nothing_can_read(root, mask, part):
    edit(root, each(segmentation=mask))
    refused, sentences = said(coco_config(root))
    assert refused
    assert f"12 annotations in {json_path(root)} have" in sentences
    assert f"8 annotations in {json_path(root, 'val2017')} have" in sentences
    assert part in sentences


def test_masks_that_mmdet_reads_pass(root):
    lengths = [20 * HEIGHT, 5, HEIGHT * WIDTH - 20 * HEIGHT - 5]
    masks = [run_lengths(PIXELS), run_lengths(PIXELS, counts=lengths)]
    edit(root, lambda c: [a.update(segmentation=m) for a, m in zip(
        c["annotations"], masks, strict=False)])  # fmt: skip
    cfg = coco_config(root)
    assert check_data(cfg) == []
    masks = build(cfg, "train_dataloader")[0]["data_samples"].gt_instances.masks
    assert len(masks) == 2
    box_only = coco_config(root)
    box_only.train_dataloader.dataset.pipeline[1].with_mask = False
    edit(root, each(segmentation=[]), "train2017")
    assert check_data(box_only) == []


def test_run_lengths_that_polygon_loaders_ignore(root):
    edit(root, each(segmentation=run_lengths(PIXELS)), "train2017")
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.pipeline[1].poly2mask = False
    refused, sentences = said(cfg)
    assert refused and "12 have no usable mask" in sentences
    data = build(cfg, "train_dataloader")
    assert not len(data[0]["data_samples"].gt_instances)


def test_polygons_in_other_units_are_said(root):
    edit(root, each(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]), "train2017")
    refused, sentences = said(coco_config(root))
    assert not refused
    assert "12 of 12 polygons looked at in" in sentences
    assert "do not cover their boxes, the first has the id 1" in sentences


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(1, 60, 2)
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        assert _length(run_lengths(pixels)["counts"]) == height * width


def resize(path):
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)


def turn(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, "JPEG", exif=exif.tobytes())


@pytest.mark.parametrize(
    ("damage", "size"), [(resize, (32, 24)), (turn, (HEIGHT, WIDTH))]
)
def test_images_that_were_changed_after_annotation_are_refused(root, damage, size):
    for path in root.glob("*2017/*.png"):
        damage(path)
    cfg = coco_config(root)
    refused, sentences = said(cfg)
    assert refused
    assert f"has {size[0]} x {size[1]} pixels" in sentences
    assert "6 of 6 images looked at are of another size" in sentences
    # That is what the loader sees.
    shape = build(cfg, "train_dataloader")[0]["data_samples"].ori_shape
    assert shape == (size[1], size[0])


def test_wrong_sizes_with_right_boxes_are_a_notice(root):
    edit(root, each("images", width=30, height=40))
    refused, sentences = said(coco_config(root))
    assert not refused and "Correct the sizes." in sentences


def test_upright_annotations_of_turned_images_pass(root):
    for path in root.glob("*2017/*.png"):
        turn(path)
    edit(root, each("images", width=HEIGHT, height=WIDTH))
    assert "another size" not in said(coco_config(root))[1]


def test_images_that_are_trained_on_and_scored(root):
    same = dict(val_annotations="annotations/instances_train2017.json")
    cfg = coco_config(root, val_images="train2017", **same)
    sentences = said(cfg)[1]
    assert "val_dataloader.dataset: 6 of 6 images looked at are training" in sentences
    (root / "val2017/101.png").write_bytes((root / "train2017/3.png").read_bytes())
    sentences = said(coco_config(root))[1]
    assert "1 of 4 images looked at are training images too" in sentences
    assert f"which is {root}/train2017/3.png" in sentences


def test_copies_are_found_by_name_among_many(tmp_path, monkeypatch):
    monkeypatch.setattr("mmssl_ext.transfer.data_check.splits.MOST_FILES", 4)
    learnt, scored = [f"{tmp_path}/{i}" for i in range(4)], [f"{tmp_path}/b/4"]
    (tmp_path / "b").mkdir()
    for path in learnt:
        Path(path).write_text(path)
    Path(scored[0]).write_text(learnt[3])
    assert shared_images(learnt, scored) == ([], 1)
    scored = [f"{tmp_path}/b/3"]
    Path(scored[0]).write_text(learnt[3])
    assert shared_images(learnt, scored) == ([(scored[0], learnt[3])], 1)
    monkeypatch.undo()
    assert shared_images(learnt, [f"{tmp_path}/b/4"])[0] == [
        (f"{tmp_path}/b/4", learnt[3])
    ]


def test_the_metric_and_the_data_set_name_the_same_file(root):
    cfg = coco_config(root)
    cfg.val_evaluator.ann_file = str(json_path(root))
    sentences = said(cfg)[1]
    assert f"The metric reads {json_path(root)}, the data set" in sentences
    cfg = coco_config(root)
    cfg.test_evaluator.ann_file = "elsewhere.json"
    assert "The metric reads elsewhere.json, the data set" in said(cfg)[1]
