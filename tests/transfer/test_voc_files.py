"""VOC's lists and XML files: objects are counted as the loader takes them."""

import logging
import shutil

import pytest

from mmssl_ext.transfer.data_check import voc
from mmssl_ext.transfer.data_check.check import check_data

from .annotations import (
    BOTH,
    CLASSES,
    passes,
    refused,
    voc_config,
    voc_set,
    write_xml,
    xml,
)


@pytest.fixture
def root(tmp_path):
    return voc_set(tmp_path)


def trainval(root):
    return root / "VOC2007/ImageSets/Main/trainval.txt"


def test_difficult_objects_are_learnt_from_but_not_scored(root):
    write_xml(root, xml(*((*o, 1) for o in BOTH)))
    ((level, sentence),) = check_data(voc_config(root))
    assert level == logging.WARNING
    assert sentence.startswith("val_dataloader.dataset: No image in")
    assert "of 4 annotations 4 are marked difficult" in sentence
    # mmdet's own class does not learn from them either.
    cfg = voc_config(root)
    cfg.train_dataloader.dataset.datasets[0].type = "VOCDataset"
    refused(
        cfg,
        "train_dataloader.dataset.datasets[0]: No image",
        "of 8 annotations 8 are marked difficult",
    )


def test_boxes_that_leave_their_image_or_are_missing_are_said(root):
    write_xml(root, xml(("disk", (1, 1, 41, 31)), BOTH[1]), [0])
    assert check_data(voc_config(root)) == []  # VOC counts from 1
    write_xml(root, xml(), [0])
    ((level, sentence),) = check_data(voc_config(root))
    assert level == logging.INFO and "1 of 4 images in" in sentence
    write_xml(root, xml(("disk", (5, 5, 60, 20)), ("disk", (5, 5, 5, 9))), [0])
    ((level, sentence),) = check_data(voc_config(root))
    assert level == logging.WARNING and "2 boxes in" in sentence
    assert "0.xml, box [5.0, 5.0, 60.0, 20.0]" in sentence


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (xml(("disk", (20, 3, 3, 20))), "have xmin above xmax or ymin above ymax"),
        (xml(("disk", (3, 20, 20, 3))), "have xmin above xmax or ymin above ymax"),
        (xml(("disk", ("nan", 3, 20, 20))), "is not finite"),
        (xml(("disk", (1, 3, 20, 20), "no")), "is not a VOC annotation"),
        (xml(*BOTH, size=(80, 60)), "are of another size than the annotations say"),
        (
            xml(*BOTH, size=("40.0", 30)),
            "0.xml is not a VOC annotation: <size/width> is '40.0', not a whole number",
        ),
        (
            xml(*((n, (0.1, 0.1, 0.5, 0.7)) for n in CLASSES)),
            "of 8 annotations 8 lie within the first pixel",  # mmdet takes them for 0
        ),
        (xml(*BOTH).replace("<ymax>29</ymax>", ""), "no name or no complete bndbox"),
        (xml(*BOTH)[:50], "is not a VOC annotation"),
        (xml(), "trainval.txt has a box of any class"),
    ],
)
def test_xml_files_that_are_refused(root, text, part):
    numbers = range(1) if part.startswith("0.xml") else range(6)
    write_xml(root, text, numbers)
    refused(voc_config(root), part)


def test_what_mmdet_reads_passes(root):
    write_xml(root, xml(("disk", (3.5, 3.2, 20.9, 20)), BOTH[1], size=(0, 0)))
    assert check_data(voc_config(root)) == []
    write_xml(root, xml(*BOTH).replace("<difficult>0</difficult>", ""))
    assert check_data(voc_config(root)) == []


# Classes


def test_unknown_classes_are_refused_and_others_said(root):
    refused(
        voc_config(root, classes=("disk", "sqare")),
        "sqare: named in metainfo.classes, but not in the objects of",
        "Did you mean square",
        "which has disk, square.",
    )
    refused(
        voc_config(root, classes=None),
        "has a box of any class in `classes`",
        "aeroplane, bicycle",
    )
    sentences = passes(voc_config(root, classes=("disk",)))
    assert sentences.count("are left out: square") == 2
    write_xml(root, xml(BOTH[0], ("other", BOTH[1][1])), [4, 5])
    sentences = passes(voc_config(root), "square: named in metainfo.classes")
    assert sentences.startswith("val_dataloader.dataset: ")  # does not stop a run


def test_a_class_may_stand_in_one_of_several_training_sets(root):
    for i, name in enumerate("ab"):
        (root / f"VOC2007/ImageSets/Main/{name}.txt").write_text(f"{i}\n")
        write_xml(root, xml(BOTH[i]), [i])
    assert check_data(voc_config(root, "a", "b")) == []
    refused(voc_config(root, "a"), "square: named in metainfo.classes")
    # It may be in the set that cannot be read.
    assert "square" not in refused(voc_config(root, "a", "gone"), "gone.txt does not")


def test_no_class_is_accused_before_all_files_are_read(root, monkeypatch):
    write_xml(root, xml(BOTH[0]), range(3))
    monkeypatch.setattr(voc, "SECONDS", 0.0)
    found = check_data(voc_config(root, classes=(*CLASSES, "third")))
    assert {level for level, text in found if "third: named" in text} == {logging.INFO}
    assert all("a sample of" in text for _, text in found)
    monkeypatch.undo()
    assert check_data(voc_config(root)) == []
    refused(voc_config(root, classes=(*CLASSES, "third")), "third: named in metainfo")


# Lists and folders


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\n", "trainval.txt is empty: the split has no images"),
        (b"0\n1\n\n\n", "trainval.txt has a blank line (3)"),
        (b"0\n\xff\n", "trainval.txt is not a text file"),
        (b"0\n1 \n2\n3\n", "has blanks at the ends of lines"),
        (b"\xef\xbb\xbf0\n1\n", "begins with a byte order mark"),
        (b"0\r1\r2\r3", "end in a carriage return"),
        (b"0  1\n1 -1\n2  1\n", "The list has two columns"),
    ],
)
def test_lists_that_are_refused(root, content, part):
    trainval(root).write_bytes(content)
    refused(voc_config(root), part)


def test_files_and_folders_that_are_missing(root):
    what = "trainvall.txt does not exist", "Did you mean trainval.txt"
    refused(voc_config(root, "trainvall"), "The list of images", *what)
    splits = [("VOC2012", "trainval")]
    message = refused(voc_config(root, train_splits=splits), "Did you mean VOC2007")
    assert "The folder " in message and message.count("\n") == 0
    folder = root / "VOC2007"
    (folder / "JPEGImages/2.jpg").unlink()
    (folder / "Annotations/3.xml").unlink()
    refused(
        voc_config(root),
        f"1 of 4 images do not exist, the first is {folder}/JPEGImages/2.jpg",
        f"1 of 4 XML files in {folder}/Annotations do not exist, the first is "
        f"{folder}/Annotations/3.xml",
    )
    shutil.rmtree(folder / "Annotations")
    refused(voc_config(root), f"annotation folder {folder}/Annotations does not exist")


def test_the_suffix_that_there_is_is_named(root):
    suffix = ".JPG"
    for path in (root / "VOC2007/JPEGImages").iterdir():
        path.rename(path.with_suffix(suffix))
    refused(voc_config(root), f"There is 0{suffix}: set img_suffix={suffix}.")
    cfg = voc_config(root, img_suffix=suffix)
    assert check_data(cfg) == []
    (root / "VOC2007/ImageSets/Main/test.txt").write_text("4.jpg\n5.jpg\n")
    refused(cfg, "names in the list have suffixes: leave them out")


def test_lists_of_windows_pass_and_repeated_names_are_said(root):
    trainval(root).write_bytes(b"0\r\n1\r\n2\r\n3\r\n")
    assert check_data(voc_config(root)) == []
    trainval(root).write_bytes(b"0\n1\n0\n")
    passes(voc_config(root), "names 1 images more than once, the first is 0")
