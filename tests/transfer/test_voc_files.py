"""VOC's lists and XML files: objects are counted as the loader takes them."""

import logging

import numpy as np
import pytest
from PIL import Image

from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer.data_check.check import check_data
from tests.harness import REPO
from tests.transfer.annotations import said

VOC = REPO / "configs/transfer/detection/faster_rcnn_r50_c4_voc0712.py"
CLASSES = ("disk", "square")
OBJECT = (
    "<object><name>{name}</name><difficult>{hard}</difficult><bndbox>"
    "<xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def xml(*objects, size=(40, 30)):
    """An annotation; an object is its name, its corners, and 1 if it is difficult."""
    body = "".join(
        OBJECT.format(*corners, name=name, hard=hard[0] if hard else 0)
        for name, corners, *hard in objects
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{body}</annotation>"
    )


BOTH = (("disk", (3, 3, 20, 20)), ("square", (20, 5, 39, 29)))


@pytest.fixture
def root(tmp_path):
    """Four images to train on and two to test, each with a disk and a square."""
    folder = tmp_path / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"JPEGImages/{i}.jpg")
        (folder / f"Annotations/{i}.xml").write_text(xml(*BOTH))
    (folder / "ImageSets/Main/trainval.txt").write_text("0\n1\n2\n3\n")
    (folder / "ImageSets/Main/test.txt").write_text("4\n5\n")
    return tmp_path


def load(root, **options):
    options = dict(checkpoint=None, classes=CLASSES) | options
    splits = dict(train_splits=[("VOC2007", "trainval")])
    return load_config(VOC, dict(data_root=str(root), **splits, **options))


def write(root, text, numbers=range(6)):
    for i in numbers:
        (root / f"VOC2007/Annotations/{i}.xml").write_text(text)


def test_sound_files_pass(root):
    assert check_data(load(root)) == []


def test_difficult_objects_are_learnt_from_but_not_scored(root):
    write(root, xml(*((*o, 1) for o in BOTH)))
    ((level, sentence),) = check_data(load(root))
    assert level == logging.WARNING
    assert sentence.startswith("val_dataloader.dataset: No image in")
    assert "of 4 annotations 4 are marked difficult" in sentence
    # mmdet's own class does not learn from them either.
    cfg = load(root)
    cfg.train_dataloader.dataset.datasets[0].type = "VOCDataset"
    refused, sentences = said(cfg)
    assert refused and "train_dataloader.dataset.datasets[0]: No image" in sentences
    assert "of 8 annotations 8 are marked difficult" in sentences


def test_a_class_whose_objects_are_all_difficult_is_named(root):
    write(root, xml(BOTH[0], (*BOTH[1], 1)))
    sentences = said(load(root))[1]
    assert "Not one object of square in" in sentences
    assert "can be scored: 2 are marked difficult" in sentences
    assert "train_dataloader" not in sentences


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (xml(("disk", (20, 3, 3, 20))), "have xmin above xmax"),
        (xml(("disk", (3, 20, 20, 3))), "have xmin above xmax or ymin above ymax"),
        (xml(("disk", ("nan", 3, 20, 20))), "is not finite"),
        (xml(("disk", (1, 3, 20, 20), "no")), "is not a VOC annotation"),
        (xml(*BOTH, size=(80, 60)), "are of another size than the annotations say"),
        (xml(*BOTH, size=("40.0", 30)), "is not a VOC annotation"),
        (xml(*BOTH, size=("40.0", 30)), "<size/width> is '40.0', not a whole number"),
        (
            xml(*((n, (0.1, 0.1, 0.5, 0.7)) for n in CLASSES)),
            "of 8 annotations 8 lie within the first pixel",  # mmdet takes them for 0
        ),
    ],
)
def test_xml_files_that_are_refused(root, text, part):
    write(root, text)
    refused, sentences = said(load(root))
    assert refused and part in sentences


def test_what_mmdet_reads_passes(root):
    write(root, xml(("disk", (3.5, 3.2, 20.9, 20)), BOTH[1], size=(0, 0)))
    assert check_data(load(root)) == []
    write(root, xml(*BOTH).replace("<difficult>0</difficult>", ""))
    assert check_data(load(root)) == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"0\n1 \n2\n3\n", "has blanks at the ends of lines"),
        (b"\xef\xbb\xbf0\n1\n", "begins with a byte order mark"),
        (b"0\r1\r2\r3", "end in a carriage return"),
        (b"0  1\n1 -1\n2  1\n", "The list has two columns"),
    ],
)
def test_lists_that_are_refused(root, content, part):
    (root / "VOC2007/ImageSets/Main/trainval.txt").write_bytes(content)
    refused, sentences = said(load(root))
    assert refused and part in sentences


@pytest.mark.parametrize("suffix", [".png", ".JPG"])
def test_the_suffix_that_there_is_is_named(root, suffix):
    for path in (root / "VOC2007/JPEGImages").iterdir():
        path.rename(path.with_suffix(suffix))
    refused, sentences = said(load(root))
    assert refused and f"There is 0{suffix}: set img_suffix={suffix}." in sentences
    assert check_data(load(root, img_suffix=suffix)) == []
    (root / "VOC2007/ImageSets/Main/test.txt").write_text("4.jpg\n5.jpg\n")
    refused, sentences = said(load(root, img_suffix=suffix))
    assert refused and "names in the list have suffixes: leave them out" in sentences


def test_lists_of_windows_pass_and_repeated_names_are_said(root):
    names = root / "VOC2007/ImageSets/Main/trainval.txt"
    names.write_bytes(b"0\r\n1\r\n2\r\n3\r\n")
    assert check_data(load(root)) == []
    names.write_bytes(b"0\n1\n0\n")
    assert "names 1 images more than once, the first is 0" in said(load(root))[1]


def test_test_images_that_are_trained_on_are_said(root):
    (root / "VOC2007/ImageSets/Main/test.txt").write_text("3\n4\n")
    assert "1 of 2 images looked at are training images" in said(load(root))[1]
