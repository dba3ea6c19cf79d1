"""Annotation files in COCO's format: what is trained on and scored is counted."""

import gzip
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as rle

from mmssl_ext.coco import number_of_pixels
from mmssl_ext.transfer.data_check.check import check_data
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
    first,
    json_path,
    passes,
    refused,
    said,
    turn,
)

nan = float("nan")


@pytest.fixture
def root(tmp_path):
    return coco_set(tmp_path / "coco")


def build(cfg, loader):
    from mmdet.registry import DATASETS

    init_default_scope("mmdet")
    return DATASETS.build(cfg[loader].dataset)


def upstream(cfg):
    """The config with mmdet's own classes."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.type = "CocoDataset"
    cfg.val_evaluator.type = cfg.test_evaluator.type = "CocoMetric"
    return cfg


# What a perfect detector gets


def perfect(cfg, root, wanted=CLASSES, **options):
    """Scores of a detector that says of each object what it was trained to say.

    It finds the objects of some classes only.
    """
    train, val = build(cfg, "train_dataloader"), build(cfg, "val_dataloader")
    label = {
        c["name"]: train.cat2label[c["id"]]
        for c in json.loads(json_path(root).read_text())["categories"]
        if c["id"] in train.cat2label
    }
    path = json_path(root, "val2017")
    truth = json.loads(path.read_text())
    names = {c["id"]: c["name"] for c in truth["categories"]}
    metric = CocoDetectionMetric(str(path), "bbox", **options)
    metric.dataset_meta = val.metainfo
    for image in truth["images"]:
        own = [
            a
            for a in truth["annotations"]
            if a["image_id"] == image["id"] and names[a["category_id"]] in wanted
        ]
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float).reshape(-1, 4)
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
    each("categories", id=lambda c: 3 - c["id"])(content)
    each(category_id=lambda a: 3 - a["category_id"])(content)


def only_square(content):
    """A split without disks, whose file does not list the category either."""
    del content["categories"][0]
    content["annotations"] = [
        a for a in content["annotations"] if a["category_id"] == 2
    ]


def without_crowd(content):
    for annotation in content["annotations"]:
        del annotation["iscrowd"]  # a KeyError in pycocotools


@pytest.mark.fault("R44")
@pytest.mark.parametrize(
    "change",
    [
        reverse,
        exchange_ids,
        only_square,
        first(id=0),  # "not found" to pycocotools
        without_crowd,
        each(iscrowd=None),
        each(id=lambda a: f"a{a['id']}"),
    ],
)
def test_a_perfect_detector_has_ap_1(root, change):
    edit(root, change, "val2017")
    cfg = coco_config(root)
    sentences = passes(cfg)
    assert ("has no category of the name disk" in sentences) == (change is only_square)
    found = perfect(cfg, root, classwise=True)
    assert found["coco/bbox_mAP"] == 1
    assert found["coco/square_precision"] == 1


def test_the_table_of_classes_names_the_right_class(root):
    """pycocotools sorts by id; here the ids go against the order of the classes."""
    edit(root, exchange_ids)
    cfg = coco_config(root)
    assert build(cfg, "val_dataloader").cat2label == {2: 0, 1: 1}
    found = perfect(cfg, root, ["disk"], classwise=True)
    assert found["coco/disk_precision"] == 1 and found["coco/square_precision"] == 0


def test_what_the_ap_does_not_tell_is_logged(root, log):
    edit(root, only_square, "val2017")
    something = perfect(coco_config(root), root)
    assert something["coco/bbox_mAP"] == 1
    assert "No object of disk in the ground truth" in log.text
    assert "AP tells of 1 of 2 classes only" in log.text
    assert "Nothing was detected" not in log.text
    nothing = perfect(coco_config(root), root, [])
    assert nothing["coco/bbox_mAP"] == 0 and nothing.keys() == something.keys()
    assert "Nothing was detected" in log.text


# Classes and their order


def test_labels_follow_classes_in_whatever_order(root):
    cfg = coco_config(root, classes=CLASSES[::-1])
    assert check_data(cfg) == []
    assert build(cfg, "train_dataloader").cat2label == {2: 0, 1: 1}
    sentences = passes(upstream(cfg))  # which numbers by the order of the file
    assert sentences.count("Write disk, square, or use mmssl_ext.") == 2


def test_upstream_types_are_refused_where_two_files_differ(root):
    edit(root, reverse, "val2017")
    cfg = upstream(coco_config(root))
    refused(cfg, "stand for square, disk, but in train_dataloader.dataset for")
    edit(root, reverse, "train2017")  # both alike again, but unlike `classes`
    passes(cfg)
    cfg.val_evaluator.type = "mmssl_ext.CocoDetectionMetric"
    refused(cfg, "CocoDetectionMetric takes the labels 0, 1, ...")


def test_classes_that_do_not_fit_are_refused(root):
    cfg = coco_config(root)
    cfg.val_dataloader.dataset.metainfo = dict(classes=CLASSES[::-1])
    refused(cfg, "Give both the same classes in the same order")
    cfg = coco_config(root, classes=("disk", "square", "disk"))
    refused(cfg, "`classes` names disk twice")
    cfg = coco_config(root)
    cfg.model.roi_head.mask_head.num_classes = 3
    assert said(cfg) == (
        True,
        "model: roi_head.mask_head.num_classes is 3, but the data have 2 classes: "
        "disk, square.",
    )


def test_unknown_classes_are_refused_and_others_said(root):
    known = f": named in metainfo.classes, but not in {json_path(root)}"
    refused(coco_config(root, classes=("dixk", "square")), f"dixk{known}", "mean disk")
    refused(coco_config(root, classes=("DISK", "square")), "'DISK': Did you mean disk?")
    # The 80 names of COCO itself, by which mmdet would train on nothing in silence.
    refused(coco_config(root, classes=None), "and 72 more: named in")
    sentences = passes(coco_config(root, classes=("disk",)))
    assert sentences.count("and are left out: square.") == 2


# Entries and files that cannot be used


def run_lengths(pixels, **changes):
    encoded = rle.encode(np.asfortranarray(pixels))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()} | changes


PIXELS = np.pad(np.ones((9, 9), np.uint8), ((20, HEIGHT - 29), (20, WIDTH - 29)))


def shifted(entry):
    x, y, w, h = entry["bbox"]
    return [x + 70, y, w, h]


def corners(entry):
    x, y, w, h = entry["bbox"]
    return [x, y, x + w, y + h]


def text(key):
    return lambda entry: str(entry[key])


def files(name):
    return each("images", file_name=name)


NO_FILE = "All 6 images of {} do not exist"
NO_MASK = [
    ([1, 1, 9, 1, 9, 9], "[x, y, ...] where a list of polygons belongs"),
    ([], "12 annotations in {} have no 'segmentation'"),
    ([["a"]], "is no list of polygons"),
    ("text", "neither polygons nor size and counts"),
    ({"counts": [1]}, "neither polygons nor size and counts"),
    (run_lengths(PIXELS.T), "of another size than the 'height' and 'width'"),
    (run_lengths(PIXELS, counts="04"), "does not fill its size"),
    (run_lengths(PIXELS, counts=[5, 6, 7]), "does not fill its size"),
    (run_lengths(PIXELS, counts=[-5, HEIGHT * WIDTH + 5]), "does not fill its size"),
]
REFUSED = [
    *((each(segmentation=mask), part) for mask, part in NO_MASK),
    # No object is left.
    (each(area=0), "12 have an area of 0; Write the true 'area'"),
    (each(iscrowd=1), "12 have iscrowd=1; Set 'iscrowd' to 0"),
    (each(ignore=1), "12 are marked by 'ignore'"),
    (each(bbox=[0.1, 0.1, 0.5, 0.5]), "12 are less than one pixel; relative ones"),
    (each(bbox=shifted), "12 lie outside of their image"),
    (each(category_id=7), "12 have a category_id that 'categories' does not"),
    (each(category_id=text("category_id")), "(the first: category_id '1'; same type"),
    (each(image_id=text("image_id")), "12 belong to an image; first: image_id '0')"),
    (each(segmentation=[[1, 1, 5, 5]]), "12 have no usable mask; three points or more"),
    (each(bbox=corners), "seem to be corners [x1, y1, x2, y2]; 12 of 12"),
    (lambda c: c.update(annotations=[]), "No image in {} has a box; nothing"),
    # What cannot be read; the text "0" would count as true.
    (each(iscrowd="0"), "the 'iscrowd' of 12 annotations is not 0 or 1; is '0'"),
    (each(ignore="0"), "the 'ignore' of 12 annotations is not 0 or 1; is '0'"),
    (first(bbox=...), "1 annotations in {} have no 'bbox', the first has the id"),
    (first(bbox=[1, 2, 3]), "is not a list of four numbers"),
    (first(bbox=[1, 2, 3, "4"]), "is not a list of four numbers"),
    (first(bbox=[nan, 1, 2, 3]), "the first is [nan, 1, 2, 3]"),
    (first(area=...), "1 annotations in {} have no 'area'"),
    (first(id=2), "ids of annotations are not unique, 2 occurs 2 times"),
    (each("images", id=1), "the ids of images are not unique, 1 occurs 6"),
    (each("categories", id=1), "the ids of categories are not unique"),
    (first("images", id="0"), "numbers in part, and text in part"),
    (each("categories", name="disk"), "several categories of the name disk"),
    (first("categories", id=...), "1 categories in"),
    (first("images", width=...), "1 images in"),
    (files(lambda i: "a\\" + i["file_name"]), "has backslashes"),
    (files("/data/a.png"), "/data/a.png is an address, an absolute"),
    (files("http://a.org/a.png"), "http://a.org/a.png is an address"),
    # Names that no file can have.
    *((files(name), NO_FILE) for name in ("\ud800.png", "a\0.png", "a" * 5000)),
]


@pytest.mark.fault("R44")
@pytest.mark.parametrize(("change", "parts"), REFUSED)
def test_entries_that_are_refused(root, change, parts):
    edit(root, change, "train2017")
    path = json_path(root)
    refused(coco_config(root), str(path), *parts.format(path).split("; "))


def parts(**content):
    return lambda data: json.dumps(content).encode()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (gzip.compress, "is not text in UTF-8"),
        (gzip.compress, "Unpack it if it is an archive, or save"),
        (lambda data: b"\xef\xbb\xbf" + data, "Unexpected UTF-8 BOM"),
        (lambda data: data[:-9], "is not valid JSON"),
        (lambda data: b"[]", "it has no list of 'images' (found: no keys)"),
        (parts(info={}, shapes=[]), "no list of 'images' (found: info, shapes)"),
        (parts(images=[1], annotations=[], categories=[]), "no list of 'images'"),
        (parts(images=[], annotations=[]), "no list of 'categories'"),
        (parts(images=[], annotations=[], categories=[]), "the split is empty"),
        (parts(images=[{"id": 1}], categories=[]), "nothing can be learnt"),
    ],
)
def test_files_that_pycocotools_cannot_read(root, change, part):
    path = json_path(root)
    path.write_bytes(change(path.read_bytes()))
    refused(coco_config(root), part, str(path))


# Objects that are lost


def test_single_losses_and_classes_without_objects_are_said(root):
    def spoil(content):
        annotations = content["annotations"]
        for a in annotations:
            a["iscrowd"] = int(a["category_id"] == 2)
        annotations[0]["area"] = 0
        annotations[2]["bbox"] = [5, 5, 0, 9]
        annotations[4]["image_id"] = 999
        annotations[6]["bbox"] = [60, 40, 20, 20]
        annotations[8]["category_id"] = 9
        content["annotations"] = [a for a in annotations if a["image_id"] != 5]

    edit(root, spoil, "train2017")
    path = json_path(root)
    sentences = passes(
        coco_config(root),
        f"Not one object of square in {path} can be learnt from: 5 have iscrowd=1",
        f"1 boxes in {path} leave their image in part",
        "3.png, box [60, 40, 20, 20]",
        f"9 of 10 annotations in {path} are not learnt from: ",
        "1 have an area of 0",
        "1 belong to an image that it does not list (the first: image_id 999)",
        "1 are less than one pixel wide or high (the first: 1.png, box [5, 5, 0, 9])",
        "1 have a category_id",
    )
    assert "val_dataloader" not in sentences


def double(content):
    more = [{**a, "id": a["id"] + 500} for a in content["annotations"]]
    content["annotations"] += more


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (double, "12 of 24 annotations in {} repeat another"),
        # They begin outside, and are no corners.
        (each(bbox=[-10, -10, 16, 12]), "12 boxes in {} leave their image in part"),
        (files("0.png"), "5 images in {} are listed more than once, 0.png 6 times"),
        (each("images", width=30, height=40), "Correct the sizes."),
        (
            each(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]),
            "12 of 12 polygons looked at in {}; boxes, the first has the id 1",
        ),
        (
            each(segmentation=lambda a: [*a["segmentation"], [1, 2, 3]]),
            "12 annotations in {} have polygons of less than three points",
        ),
    ],
)
def test_what_is_said_of_entries_that_are_used(root, change, parts):
    edit(root, change, "train2017")
    passes(coco_config(root), *parts.format(json_path(root)).split("; "))


def test_a_validation_set_without_objects_is_warned_of(root):
    edit(root, first(iscrowd=1))
    levels = [level for level, _ in check_data(coco_config(root))]
    assert levels == [logging.INFO] * 2  # a few crowds are usual
    edit(root, each(iscrowd=0), "train2017")
    for change, part in (
        (each(iscrowd=1), "that can be scored: of 8 annotations 8 have iscrowd=1"),
        (lambda c: c["annotations"].clear(), "has a box of any class in `classes`, so"),
        (lambda c: c.pop("annotations"), "no 'annotations', so nothing can be scored"),
    ):
        edit(root, change, "val2017")
        ((level, sentence),) = check_data(coco_config(root))
        assert level == logging.WARNING and part in sentence


# Images


def test_images_below_the_least_size_are_said(root):
    edit(root, first("images", width=30), "train2017")
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.filter_cfg.min_size = 40
    passes(cfg, "1 of 6 images in", "min_size=40 and are left out")
    cfg.train_dataloader.dataset.filter_cfg.min_size = 50
    refused(cfg, "smaller than filter_cfg.min_size=50")


def test_every_image_is_looked_for(root, monkeypatch):
    monkeypatch.setattr("mmssl_ext.transfer.data_check.files.NUM_FILES", 2)
    assert check_data(coco_config(root)) == []
    (root / "train2017/5.png").unlink()
    refused(
        coco_config(root),
        f"1 of 6 images of {json_path(root)} do not exist",
        f"the first is {root}/train2017/5.png",
    )
    (root / "train2017/0.png").write_bytes(b"no image")
    refused(coco_config(root), f"{root}/train2017/0.png cannot be read")
    shutil.rmtree(root / "train2017")
    refused(coco_config(root), f"The image folder {root}/train2017 does not exist")


def resize(path):
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2)).save(path)


@pytest.mark.parametrize(
    ("damage", "size"), [(resize, (32, 24)), (turn, (HEIGHT, WIDTH))]
)
def test_images_that_were_changed_after_annotation_are_refused(root, damage, size):
    for path in root.glob("*2017/*.png"):
        damage(path)
    cfg = coco_config(root)
    found = f"has {size[0]} x {size[1]} pixels", "6 of 6 images looked at are of anothe"
    refused(cfg, *found)
    # That is what the loader sees.
    shape = build(cfg, "train_dataloader")[0]["data_samples"].ori_shape
    assert shape == size[::-1]
    edit(root, each("images", width=size[0], height=size[1]))
    assert "another size" not in said(coco_config(root))[1]


# Masks


def test_masks_that_mmdet_reads_pass(root):
    lengths = [20 * HEIGHT, 5, HEIGHT * WIDTH - 20 * HEIGHT - 5]
    masks = [run_lengths(PIXELS), run_lengths(PIXELS, counts=lengths)]
    edit(root, each(segmentation=lambda a: masks[a["category_id"] - 1]))
    cfg = coco_config(root)
    assert check_data(cfg) == []
    masks = build(cfg, "train_dataloader")[0]["data_samples"].gt_instances.masks
    assert len(masks) == 2
    box_only = coco_config(root)
    box_only.train_dataloader.dataset.pipeline[1].with_mask = False
    edit(root, each(segmentation=[]), "train2017")
    assert check_data(box_only) == []
    edit(root, each(segmentation=run_lengths(PIXELS)), "train2017")
    cfg = coco_config(root)
    cfg.train_dataloader.dataset.pipeline[1].poly2mask = False
    refused(cfg, "12 have no usable mask")  # loaders of polygons ignore run lengths
    data = build(cfg, "train_dataloader")
    assert not len(data[0]["data_samples"].gt_instances)


def test_run_lengths_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for _ in range(20):
        height, width = rng.integers(1, 60, 2)
        pixels = (rng.random((height, width)) < rng.random()).astype(np.uint8)
        assert number_of_pixels(run_lengths(pixels)["counts"]) == height * width


# Splits


def test_images_that_are_trained_on_and_scored(root):
    same = dict(val_annotations="annotations/instances_train2017.json")
    passes(
        coco_config(root, val_images="train2017", **same),
        "val_dataloader.dataset: 6 of 6 images looked at are training",
    )
    (root / "val2017/101.png").write_bytes((root / "train2017/3.png").read_bytes())
    passes(
        coco_config(root),
        "1 of 4 images looked at are training images too",
        f"which is {root}/train2017/3.png",
    )


def test_copies_are_found_by_name_among_many(tmp_path, monkeypatch):
    monkeypatch.setattr("mmssl_ext.transfer.data_check.splits.MOST_FILES", 4)
    (tmp_path / "b").mkdir()
    learnt = [f"{tmp_path}/{i}" for i in range(4)]
    other, same = f"{tmp_path}/b/4", f"{tmp_path}/b/3"
    for path in learnt:
        Path(path).write_text(path)
    for path in (other, same):
        Path(path).write_text(learnt[3])
    assert shared_images(learnt, [other]) == ([], 1)
    assert shared_images(learnt, [same]) == ([(same, learnt[3])], 1)
    monkeypatch.undo()
    assert shared_images(learnt, [other])[0] == [(other, learnt[3])]


def test_the_metric_and_the_data_set_name_the_same_file(root):
    for part, path in (("val", json_path(root)), ("test", "elsewhere.json")):
        cfg = coco_config(root)
        cfg[f"{part}_evaluator"].ann_file = str(path)
        passes(cfg, f"The metric reads {path}, the data set")
