"""Label maps: pixels are counted per class, and a late fault names its file."""

import json
import logging

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmssl_ext.errors import LoaderError
from mmssl_ext.run.launch import prepare, train
from mmssl_ext.transfer.data_check import labels as data_check_labels
from mmssl_ext.transfer.data_check.check import check_data
from mmssl_ext.transfer.label_guard import CheckLabels, LabelRangeError, guard_labels
from mmssl_ext.transfer.segmentation import SegmentationMetric

from .annotations import (
    FCN,
    SEGMENTS,
    SIZE,
    passes,
    refused,
    segmentation_config,
    segmentation_options,
    segmentation_set,
    turn,
)


def small_sample(monkeypatch):
    """Open two label maps only, unless a class is not seen."""
    monkeypatch.setattr(data_check_labels, "NUM_MAPS", 2)
    monkeypatch.setattr(data_check_labels, "SECONDS", 0.0)


@pytest.mark.parametrize(
    ("maps", "options"),
    [
        (lambda m, i: Image.fromarray(m).convert("P"), {}),
        # 255 stays ignored where 0 is.
        (
            lambda m, i: np.where(m, 2, [1, 255] * 16).astype(np.uint8),
            dict(reduce_zero_label=True),
        ),
    ],
)
def test_sound_maps_pass(tmp_path, maps, options):
    assert (
        check_data(segmentation_config(segmentation_set(tmp_path, maps), **options))
        == []
    )
    cfg = segmentation_config(
        segmentation_set(tmp_path / "one", lambda m, i: m * 0), classes=("object",)
    )
    cfg.model.decode_head.loss_decode = dict(type="CrossEntropyLoss", use_sigmoid=True)
    assert check_data(cfg) == []  # one class is learnt under a sigmoid


REDUCED = dict(reduce_zero_label=True)
WRONG = [
    (lambda m: m * 255, {}, "hold 0 and 255 only; object is never learnt"),
    (lambda m: m * 200, {}, "labels 200; 0 and 200 has to hold 1 for 200"),
    (lambda m: m + 1, {}, "labels 2; Do they count from 1?"),
    (
        lambda m: m * 0 + 255,
        {},
        "All pixels of 6 label maps looked at are ignored (255)",
    ),
    (
        lambda m: m * 0,
        REDUCED,
        "All pixels; reduce_zero_label=True ignores 0; to learn",
    ),
    (
        lambda m: m + 3,
        REDUCED,
        "the labels 2, 3 after reduce_zero_label, but 2 classes",
    ),
    (lambda m: m.astype(np.uint16) * 256, {}, "the labels 256; 8 bits"),
    (lambda m: -m.astype(np.int32), {}, "the labels -1; 8 bits"),
    (
        lambda m: Image.fromarray(m).convert("RGB"),
        {},
        "a colour image (RGB); Its channels are equal: save one",
    ),
    (lambda m: Image.new("RGBA", SIZE, (9, 8, 7)), {}, "a colour image (RGBA)"),
    (
        lambda m: Image.new("L", (96, 48)),
        {},
        "lab/train/0.png is 96 x 48 pixels large, but its image 0.png 32 x 24",
    ),
    (lambda m: m, dict(classes=("object",)), "One class alone; background"),
    (
        lambda m: m,
        {"model.decode_head.num_classes": 3},
        "`classes` has 2 names, but model.decode_head.num_classes is 3",
    ),
    (
        lambda m: m,
        {"model.data_preprocessor.seg_pad_val": 9},
        "seg_pad_val is 9, which is neither a class",
    ),
]


@pytest.mark.fault("R45")
@pytest.mark.parametrize(("maps", "options", "parts"), WRONG)
def test_what_is_wrong_with_label_maps(tmp_path, maps, options, parts):
    variables = {key: value for key, value in options.items() if "." not in key}
    root = segmentation_set(tmp_path, lambda labels, i: maps(labels))
    cfg = segmentation_config(root, **variables)
    cfg.merge_from_dict({key: v for key, v in options.items() if "." in key})
    refused(cfg, *parts.split("; "))


def test_label_maps_that_are_none(tmp_path):
    cfg = segmentation_config(segmentation_set(tmp_path))
    path = tmp_path / "lab/train/0.png"
    path.write_bytes(path.read_bytes()[:60])
    refused(cfg, f"{path} cannot be read: ")
    for path in tmp_path.glob("lab/*/*.png"):
        Image.new("L", SIZE).save(path, "JPEG")
    refused(cfg, "is a JPEG, whose compression changes")


def test_files_and_folders_that_are_missing(tmp_path):
    root = segmentation_set(tmp_path)
    label = root / "lab/train/0_labelTrainIds.png"
    for path in (root / "lab/train").iterdir():
        path.rename(path.with_name(f"{path.stem}_labelTrainIds.png"))
    suffix = dict(seg_map_suffix="_labelTrainIds.png", val_labels="lab/train")
    label.rename(root / "lab/train/0_labelIds.png")
    refused(
        segmentation_config(root, val_images="img/train", **suffix),
        f"1 of 6 label maps in {root}/lab/train do not exist, the first is {label}",
        "createTrainIdLabelImgs",
    )
    refused(
        segmentation_config(root, img_suffix=".jpg"), "ends in '.jpg'", "img_suffix"
    )
    refused(
        segmentation_config(root, val_labels="lab/no"), "folder of label maps", "lab/no"
    )
    refused(segmentation_config(root, train_images="img/trian"), "Did you mean train?")


def test_lists_of_images(tmp_path):
    cfg = segmentation_config(segmentation_set(tmp_path))
    for split, text in (("train", "0\n1\n"), ("val", "")):
        (tmp_path / f"{split}.txt").write_text(text)
        cfg[f"{split}_dataloader"].dataset.ann_file = f"{split}.txt"
    (tmp_path / "img/train/1.png").unlink()
    refused(
        cfg,
        f"val_dataloader.dataset: The list of images {tmp_path}/val.txt is empty",
        "train_dataloader.dataset: 1 of 2 images do not exist",
    )
    cfg.val_dataloader.dataset.ann_file = "gone.txt"
    refused(cfg, f"The list of images {tmp_path}/gone.txt does not exist")


def test_label_ids_of_cityscapes_are_named(tmp_path):
    segmentation_set(tmp_path, lambda m, i: m + 24)
    for path in tmp_path.glob("lab/*/*.png"):
        path.rename(path.with_name(f"{path.stem}_gtFine_labelIds.png"))
    cfg = segmentation_config(tmp_path, seg_map_suffix="_gtFine_labelIds.png")
    refused(cfg, "take the *_labelTrainIds.png")


def test_a_part_of_the_classes_of_a_known_set_is_numbered_anew(tmp_path):
    from mmseg.datasets import PascalVOCDataset

    root = segmentation_set(tmp_path, lambda m, i: m * 5 + 3)
    for other, absent in (("bird", ""), ("cow", "Not one pixel of cow")):
        cfg = segmentation_config(root, classes=("cat", other))
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            loader.dataset.type = PascalVOCDataset
        assert bool(passes(cfg, absent)) == bool(absent)


def test_classes_without_a_pixel_are_named_for_each_split(tmp_path):
    root = segmentation_set(tmp_path)

    def draw(split):
        path = root / f"lab/{split}/5.png"
        labels = np.array(Image.open(path))
        labels[0, 0] = 2
        Image.fromarray(labels).save(path)

    cfg = segmentation_config(root, classes=(*SEGMENTS, "third"))
    train, val = check_data(cfg)
    assert train[0] == val[0] == logging.WARNING
    assert "Not one pixel of third in 6 label maps" in train[1]
    assert train[1].startswith("train_dataloader.dataset: ")
    assert train[1].endswith("never learnt.") and val[1].endswith("not scored.")
    draw("train")
    ((_, only),) = check_data(cfg)
    assert only.startswith("val_dataloader.dataset: ")
    draw("val")
    assert check_data(cfg) == []


def test_a_class_is_looked_for_beyond_the_sample(tmp_path, monkeypatch):
    small_sample(monkeypatch)
    root = segmentation_set(tmp_path, lambda labels, i: labels * (i == 5))
    cfg = segmentation_config(root)
    assert check_data(cfg) == []
    monkeypatch.setattr(data_check_labels, "MAX_SECONDS", 0.0)
    levels = {level for level, _ in check_data(cfg)}
    assert levels == {logging.WARNING}
    passes(cfg, "of object in 2 of 6 label maps looked at")


def test_maps_are_as_large_as_the_images_that_the_loader_sees(tmp_path):
    cfg = segmentation_config(segmentation_set(tmp_path))
    for path in tmp_path.glob("img/train/*.png"):
        turn(path)
    refused(
        cfg,
        "is 32 x 24 pixels large, but its image 0.png 24 x 32",
        "EXIF turns it (orientation 6); write the image without EXIF orientation, or",
    )
    cfg.train_dataloader.dataset.pipeline[0].color_type = "color_ignore_orientation"
    passes(cfg)
    for path in tmp_path.glob("lab/train/*.png"):  # drawn on what a viewer shows
        Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path)
    assert "pixels large" not in passes(segmentation_config(tmp_path))


def test_a_class_that_is_ignored_counts_as_absent(tmp_path):
    cfg = segmentation_config(segmentation_set(tmp_path), ignore_index=0)
    hint = "ignore_index=0 ignores ground."
    passes(cfg, "Not one pixel of ground in 6 label maps", hint)


def test_files_that_are_left_out_are_said(tmp_path):
    root = segmentation_set(tmp_path)
    assert check_data(segmentation_config(root)) == []
    (root / "img/train/3.png").rename(root / "img/train/3.PNG")
    passes(
        segmentation_config(root),
        *("1 images in", "the first is 3.PNG", "1 label maps in", "the first is 3.png"),
    )


@pytest.mark.fault("R45")
def test_a_bad_label_in_a_late_map_names_the_file(tmp_path, monkeypatch):
    small_sample(monkeypatch)  # does not open these maps
    root = segmentation_set(tmp_path / "d", lambda m, i: m + 7 * (i in (1, 2, 4)))
    options = segmentation_options(root, max_iters=2, num_workers=1, batch_size=6)
    with pytest.raises(LoaderError) as caught:
        train(FCN, options, work_dir=str(tmp_path / "run"))
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert f"'{root}/lab/train/" in message and "holds the labels 7, 8, but" in message
    assert "Traceback" not in message


def test_the_guard_stands_behind_every_loading_step(tmp_path):
    cfg = segmentation_config(segmentation_set(tmp_path))
    prepare(cfg, work_dir=str(tmp_path / "run"))
    guard_labels(cfg)  # once is enough
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        types = [step["type"] for step in loader.dataset.pipeline]
        place = types.index("LoadAnnotations") + 1
        assert types.count("mmssl_ext.CheckLabels") == 1
        assert loader.dataset.pipeline[place] == dict(
            type="mmssl_ext.CheckLabels", num_classes=2, ignore_index=255
        )
    inner = dict(pipeline=[dict(type="mmseg.LoadAnnotations")])
    other = Config(
        dict(
            default_scope="mmseg",
            model=dict(decode_head=[dict(), dict(num_classes=4, ignore_index=9)]),
            train_dataloader=dict(dataset=dict(dataset=dict(datasets=[inner]))),
        )
    )
    guard_labels(other)
    found = other.train_dataloader.dataset.dataset.datasets[0].pipeline[1]
    assert found["num_classes"] == 4 and found["ignore_index"] == 9


def test_the_guard_lets_sound_labels_pass():
    check = CheckLabels(num_classes=3, ignore_index=9)
    labels = np.array([[0, 1], [2, 9]], np.uint8)
    assert check(dict(gt_seg_map=labels))["gt_seg_map"] is labels
    assert check({}) == {}
    labels[0, 0] = 3
    with pytest.raises(LabelRangeError, match="holds the labels 3, but 3 classes"):
        check(dict(gt_seg_map=labels, seg_map_path="a.png"))
    found = dict(gt_seg_map=labels, seg_map_path="a.png", img_path="b.png")
    size = "label map 'a.png' is 2 x 2 large, but its image 'b.png' 4 x 1"
    with pytest.raises(LabelRangeError, match=size):
        check(found | dict(ori_shape=(1, 4)))


def test_the_metric_names_the_classes_without_pixels(log):
    metric = SegmentationMetric()
    metric.dataset_meta = dict(classes=SEGMENTS)
    ground = dict(data=torch.zeros(1, 4, 4))
    metric.process({}, [dict(pred_sem_seg=ground, gt_sem_seg=ground)])
    assert metric.evaluate(1)["mIoU"] == 100
    assert "No pixel of object in the ground truth: mIoU tells of 1 of 2" in log.text


def test_the_result_names_the_classes_without_pixels(tmp_path):
    root = segmentation_set(tmp_path / "d", number=2)
    for path in root.glob("lab/val/*.png"):
        Image.new("L", SIZE).save(path)
    with DefaultScope.overwrite_default_scope("mmseg"):
        options = segmentation_options(root, max_iters=1, val_interval=1, batch_size=2)
        train(FCN, options, work_dir=str(tmp_path / "run"))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["absent_classes"] == ["object"]
