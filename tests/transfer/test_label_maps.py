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
from mmssl_ext.run.launch import load_config, prepare, train
from mmssl_ext.transfer.data_check import labels as data_check_labels
from mmssl_ext.transfer.data_check.check import check_data
from mmssl_ext.transfer.label_guard import CheckLabels, LabelRangeError, guard_labels
from mmssl_ext.transfer.segmentation import SegmentationMetric
from tests.harness import REPO
from tests.transfer.annotations import said

FCN = REPO / "configs/transfer/segmentation/fcn_r50_cityscapes_40k.py"
CLASSES = ("ground", "object")
SIZE = (32, 24)


def segmentation_set(root, maps=lambda labels, i: labels, number=6):
    """Scenes with an object each; ``maps`` changes the label map of the i-th."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / "img" / split).mkdir(parents=True)
        (root / "lab" / split).mkdir(parents=True)
        for i in range(number):
            pixels = rng.integers(0, 255, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
            labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            labels[8:16, 4:20] = 1
            Image.fromarray(pixels).save(root / f"img/{split}/{i}.png")
            changed = maps(labels, i)
            if isinstance(changed, np.ndarray):
                changed = Image.fromarray(changed)
            changed.save(root / f"lab/{split}/{i}.png")
    return root


def variables(root, **options):
    paths = {
        f"{split}_{kind}": f"{folder}/{split}"
        for split in ("train", "val")
        for kind, folder in (("images", "img"), ("labels", "lab"))
    }
    suffixes = dict(img_suffix=".png", seg_map_suffix=".png")
    model = dict(checkpoint=None, depth=18, base_channels=16, num_workers=0)
    sizes = dict(crop_size=(16, 16), scale=SIZE)
    every = dict(data_root=str(root), classes=CLASSES, **paths, **suffixes)
    return every | model | sizes | options


def load(root, **options):
    return load_config(FCN, variables(root, **options))


def test_sound_maps_pass(tmp_path):
    cfg = load(segmentation_set(tmp_path, lambda m, i: Image.fromarray(m).convert("P")))
    assert check_data(cfg) == []


@pytest.mark.fault("R45")
@pytest.mark.parametrize(
    ("maps", "options", "parts"),
    [
        (lambda m, i: m * 255, {}, ["hold 0 and 255 only", "object would never be"]),
        (lambda m, i: m * 200, {}, ["labels 200", "0 and 200 has to hold 1 for 200"]),
        (lambda m, i: m + 1, {}, ["labels 2", "Do they count from 1?"]),
        (
            lambda m, i: m * 0 + 255,
            {},
            ["All pixels of 6 label maps looked at are ignored (255)", "to learn"],
        ),
        (
            lambda m, i: m * 0,
            dict(reduce_zero_label=True),
            ["All pixels", "reduce_zero_label=True ignores 0"],
        ),
        (lambda m, i: m.astype(np.uint16) * 256, {}, ["the labels 256", "8 bits"]),
        (lambda m, i: -m.astype(np.int32), {}, ["the labels -1", "8 bits"]),
        (
            lambda m, i: Image.fromarray(m).convert("RGB"),
            {},
            ["a colour image (RGB)", "Its channels are equal: save one"],
        ),
        (
            lambda m, i: Image.new("RGBA", SIZE, (9, 8, 7)),
            {},
            ["a colour image (RGBA)"],
        ),
        (lambda m, i: _Cut(m), {}, ["lab/train/0.png cannot be read: "]),
        (lambda m, i: m, dict(classes=("object",)), ["One class alone", "background"]),
        (lambda m, i: m, dict(classes=("a", "b", "c"), palette=None), ["of c in 6"]),
    ],
)
def test_what_is_wrong_with_label_maps(tmp_path, maps, options, parts):
    refused, sentences = said(load(segmentation_set(tmp_path, _tiff(maps)), **options))
    assert refused == ("of c in 6" not in parts)
    assert all(part in sentences for part in parts), sentences


def _tiff(maps):
    """PNG holds no negative numbers; PIL goes by the content, whatever the name."""

    def change(labels, i):
        changed = maps(labels, i)
        if isinstance(changed, np.ndarray) and changed.dtype == np.int32:
            return _Tiff(changed)
        return changed

    return change


class _Cut:
    def __init__(self, values):
        self.image = Image.fromarray(values)

    def save(self, path):
        self.image.save(path)
        path.write_bytes(path.read_bytes()[:60])


class _Tiff:
    def __init__(self, values):
        self.image = Image.fromarray(values)

    def save(self, path):
        self.image.save(path, "TIFF")


def test_label_ids_of_cityscapes_are_named(tmp_path):
    cfg = load(segmentation_set(tmp_path, lambda m, i: m + 24))
    for part in ("train", "val"):
        for path in (tmp_path / "lab" / part).iterdir():
            path.rename(path.with_name(f"{path.stem}_gtFine_labelIds.png"))
    cfg = load(tmp_path, seg_map_suffix="_gtFine_labelIds.png")
    refused, sentences = said(cfg)
    assert refused and "take the *_labelTrainIds.png" in sentences


def test_maps_as_jpeg_are_refused(tmp_path):
    segmentation_set(tmp_path)
    for path in tmp_path.glob("lab/*/*.png"):
        Image.open(path).save(path, "JPEG")
    assert "is a JPEG, whose compression changes" in said(load(tmp_path))[1]


def test_classes_without_a_pixel_are_named_for_each_split(tmp_path):
    root = segmentation_set(tmp_path)
    names = (*CLASSES, "third")

    def draw(split):
        path = root / f"lab/{split}/5.png"
        labels = np.array(Image.open(path))
        labels[0, 0] = 2
        Image.fromarray(labels).save(path)

    cfg = load(root, classes=names)
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
    monkeypatch.setattr(data_check_labels, "NUM_MAPS", 2)
    monkeypatch.setattr(data_check_labels, "SECONDS", 0.0)

    def only_last(labels, i):
        return labels * (i == 5)

    cfg = load(segmentation_set(tmp_path, only_last))
    assert check_data(cfg) == []
    monkeypatch.setattr(data_check_labels, "MAX_SECONDS", 0.0)
    levels = {level for level, _ in check_data(cfg)}
    assert levels == {logging.WARNING}
    assert "of object in 2 of 6 label maps looked at" in said(cfg)[1]


def test_maps_are_as_large_as_the_images_that_the_loader_sees(tmp_path):
    root = segmentation_set(tmp_path)

    def turn(split, tag):
        for path in root.glob(f"img/{split}/*.png"):
            exif = Image.Exif()
            exif[0x0112] = tag
            Image.open(path).save(path, "JPEG", exif=exif.tobytes())

    turn("train", 6)
    refused, sentences = said(load(root))
    assert refused
    assert "is 32 x 24 pixels large, but its image 0.png 24 x 32" in sentences
    assert "EXIF turns it (orientation 6)" in sentences
    for path in root.glob("lab/train/*.png"):  # drawn on what a viewer shows
        Image.open(path).transpose(Image.Transpose.ROTATE_270).save(path)
    refused, sentences = said(load(root))
    assert not refused and "pixels large" not in sentences


def test_a_class_that_is_ignored_counts_as_absent(tmp_path):
    cfg = load(segmentation_set(tmp_path), ignore_index=0)
    assert "Not one pixel of ground in 6 label maps" in said(cfg)[1]
    assert "ignore_index=0 ignores ground." in said(cfg)[1]


def test_files_that_are_left_out_are_said(tmp_path):
    root = segmentation_set(tmp_path)
    assert check_data(load(root)) == []
    (root / "img/train/3.png").rename(root / "img/train/3.PNG")
    sentences = said(load(root))[1]
    assert "1 images in" in sentences and "the first is 3.PNG" in sentences
    assert "1 label maps in" in sentences and "the first is 3.png" in sentences


def test_images_that_are_scored_and_trained_on(tmp_path):
    root = segmentation_set(tmp_path)
    cfg = load(root, val_images="img/train", val_labels="lab/train")
    assert "6 of 6 images looked at are training images too" in said(cfg)[1]


def late(tmp_path, monkeypatch):
    """A label out of range in a map that the check does not open."""
    monkeypatch.setattr(data_check_labels, "NUM_MAPS", 2)
    monkeypatch.setattr(data_check_labels, "SECONDS", 0.0)
    return segmentation_set(tmp_path / "d", lambda m, i: m + 7 * (i in (1, 2, 4)))


@pytest.mark.fault("R45")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_label_in_a_late_map_names_the_file(tmp_path, monkeypatch, workers):
    root = late(tmp_path, monkeypatch)
    with pytest.raises(LoaderError) as caught:
        train(
            FCN,
            variables(root, max_iters=2, num_workers=workers, batch_size=6),
            work_dir=str(tmp_path / "run"),
        )
    assert caught.value.exit_code == 4
    message = str(caught.value)
    assert f"'{root}/lab/train/" in message and "holds the labels 7, 8, but" in message
    assert "Traceback" not in message


def test_a_late_map_of_another_size_names_both_files(tmp_path, monkeypatch):
    monkeypatch.setattr(data_check_labels, "NUM_MAPS", 2)
    monkeypatch.setattr(data_check_labels, "SECONDS", 0.0)
    root = segmentation_set(tmp_path / "d")
    for i in (1, 2, 4, 5):
        Image.new("L", (20, 30)).save(root / f"lab/train/{i}.png")
    message = (
        rf"label map '{root}/lab/train/(\d).png' is 20 x 30 large, but its image "
        rf"'{root}/img/train/\1.png' 32 x 24"
    )
    options = variables(root, max_iters=2, batch_size=6)
    with pytest.raises(LoaderError, match=message):
        train(FCN, options, work_dir=str(tmp_path / "run"))


def test_padding_must_be_ignored(tmp_path):
    cfg = load(segmentation_set(tmp_path))
    cfg.model.data_preprocessor.seg_pad_val = 9
    refused, sentences = said(cfg)
    assert refused and "seg_pad_val is 9, which is neither a class" in sentences


def test_the_guard_stands_behind_every_loading_step(tmp_path):
    cfg = load(segmentation_set(tmp_path))
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


def test_the_metric_names_the_classes_without_pixels(log):
    metric = SegmentationMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    ground = dict(data=torch.zeros(1, 4, 4))
    metric.process({}, [dict(pred_sem_seg=ground, gt_sem_seg=ground)])
    assert metric.evaluate(1)["mIoU"] == 100
    assert "No pixel of object in the ground truth: mIoU tells of 1 of 2" in log.text


def test_the_result_names_the_classes_without_pixels(tmp_path):
    """A validation set without objects; the figures look perfect."""
    root = segmentation_set(tmp_path / "d", number=2)
    for path in root.glob("lab/val/*.png"):
        Image.new("L", SIZE).save(path)
    with DefaultScope.overwrite_default_scope("mmseg"):
        options = variables(root, max_iters=1, val_interval=1, batch_size=2)
        train(FCN, options, work_dir=str(tmp_path / "run"))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["absent_classes"] == ["object"]
