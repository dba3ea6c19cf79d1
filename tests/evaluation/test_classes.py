"""Two labelled sets meet by class names; images in both are said."""

import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl_ext.datasets import ImageFolder, ImageList
from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation import Features, knn_accuracy
from mmssl_ext.evaluation.classes import in_numbers_of, match_classes
from mmssl_ext.evaluation.copies import say_copied_files, say_copies
from mmssl_ext.run.runner import SSLRunner
from tests.harness import config, loader, log_text, make_runner, write_images


class Labelled:
    """A dataset of another package: names, and no way to renumber it."""

    def __init__(self, *classes):
        self.metainfo = {"classes": classes}


@pytest.mark.parametrize(
    ("classes", "known", "expected"),
    [
        (("cat", "dog"), ("dog", "owl", "cat"), [2, 0, 2]),
        (None, ("bird", "cat"), [0, 1, 0]),
        (("cat", "dog"), None, [0, 1, 0]),
        (("0", "1"), ("cat", "dog"), [0, 1, 0]),  # a list file gives numbers
        (("cat", "dog"), ("0", "1"), [0, 1, 0]),
        (("2", "4"), ("0", "1", "2", "3", "4"), [2, 4, 2]),  # folders of digits
        (("cat", "dog", "empty"), ("cat", "dog"), [0, 1, 0]),
    ],
)
def test_labels_take_the_numbers_of_the_same_names(classes, known, expected):
    assert in_numbers_of(np.array([0, 1, 0]), classes, known).tolist() == expected


@pytest.mark.parametrize(
    ("classes", "known", "named"),
    [
        (("ape", "wolf"), ("bird", "cat"), "'ape', 'wolf'"),
        (None, ("cat",), "'1'"),
        (("0", "1"), ("0",), "'1'"),
    ],
)
def test_a_class_that_the_other_set_lacks_is_named(classes, known, named):
    with pytest.raises(ValueError, match=f"does not have: {named}; the bank has"):
        in_numbers_of(np.array([0, 1, 0]), classes, known)


@pytest.mark.fault("R40")
def test_knn_compares_names():
    rows = torch.eye(3)
    bank = Features({"x": rows}, torch.arange(3), [""] * 3, ("bird", "cat", "dog"))
    query = Features({"x": rows[1:]}, torch.arange(2), [""] * 2, ("cat", "dog"))
    assert knn_accuracy(query, bank, k=1) == {"x_top1": 100.0}
    query = query._replace(classes=("dog", "cat"))
    assert knn_accuracy(query, bank, k=1) == {"x_top1": 0.0}
    with pytest.raises(ValueError, match="'wolf'"):
        knn_accuracy(query._replace(classes=("cat", "wolf")), bank, k=1)


def test_hook_maps_names_warns_of_copies_once_and_refuses_others(tmp_path):
    bank = write_images(tmp_path / "bank", classes=3)
    query = tmp_path / "query"
    for name in ("class1", "class2"):
        shutil.copytree(bank / name, query / name)
    loaders = {"bank_dataloader": loader(bank), "query_dataloader": loader(query)}
    knn = {"type": "KNNHook", "k": 1, **loaders}
    runner = make_runner(config(bank, tmp_path / "run", epochs=2, knn=knn))
    runner.train()
    history = runner.message_hub.get_info("knn_history")
    assert [row["backbone_top1"] for row in history] == [100.0] * 3
    said = "16 of the 16 kNN query images are also among the training images"
    assert log_text(runner).count(said) == 1
    assert "among the bank images" not in log_text(runner)  # the same once more
    (query / "class1").rename(query / "wolf")
    runner = make_runner(config(bank, tmp_path / "other", knn=knn))
    with pytest.raises(ConfigError, match="'wolf'; the bank has 'class0', 'class1'"):
        runner.train()
    assert runner.iter == 0


def test_a_test_set_takes_the_numbers_of_the_training_set(tmp_path):
    root = write_images(tmp_path / "train", classes=3, per_class=2)
    (tmp_path / "test").mkdir()
    shutil.copytree(root / "class2", tmp_path / "test/class2")
    training = ImageFolder(root, labels="subfolders")
    test = ImageFolder(tmp_path / "test", labels="subfolders")
    assert test.labels.tolist() == [0, 0]
    match_classes(test, training)
    assert test.labels.tolist() == [2, 2]
    assert test.metainfo["classes"] == ("class0", "class1", "class2")
    (tmp_path / "list.txt").write_text("class2/0.png 2\nclass1/0.png 1\n")
    numbers = ImageList(tmp_path / "list.txt", root)
    match_classes(numbers, training)
    assert numbers.labels.tolist() == [2, 1]
    match_classes(Labelled("0", "1"), Labelled("cat", "dog"))
    with pytest.raises(ValueError, match="same order"):
        match_classes(Labelled("dog", "cat"), Labelled("cat", "dog"))


def test_validation_of_a_runner_has_the_numbers_of_its_training_set(tmp_path):
    class Loop:
        def __init__(self, dataset):
            self.dataloader = type("Loader", (), {"dataset": dataset})()
            self.evaluator = type("Evaluator", (), {"dataset_meta": None})()

    root = write_images(tmp_path / "train", classes=2, per_class=2)
    (tmp_path / "val").mkdir()
    (root / "class1").rename(tmp_path / "val/class1")
    (root / "class1").mkdir()
    runner = SSLRunner.__new__(SSLRunner)
    runner._train_loop = Loop(ImageFolder(root, labels="subfolders"))
    runner._rank = 0
    loop = runner._judge(Loop(ImageFolder(tmp_path / "val", labels="subfolders")))
    assert loop.dataloader.dataset.labels.tolist() == [1, 1]
    assert loop.evaluator.dataset_meta["classes"] == ("class0", "class1")


def test_targets_of_a_test_set_take_the_columns_of_the_training_set():
    class Targets(Labelled):
        targets = np.array([[1, -1, 0], [0, 1, 1]])

        def renumber(self, targets, classes):
            self.targets, self.metainfo = targets, {"classes": classes}

    test = Targets("cat", "dog", "elk")
    match_classes(test, Labelled("elk", "cat", "dog"))
    assert test.targets.tolist() == [[0, 1, -1], [1, 0, 1]]
    assert test.metainfo["classes"] == ("elk", "cat", "dog")
    for others in (["cat"], ["elk", "cat", "owl"], ["0", "1", "2"]):
        with pytest.raises(ValueError, match=f"the training set '{others[0]}'"):
            match_classes(test, Labelled(*others))


def sets(tmp_path, copies, test=8):
    """A training and a test folder of which some files are copies, renamed."""
    rng = np.random.default_rng(0)
    folders = {}
    for name, count in (("train", 8), ("test", test)):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for i in range(count):
            pixels = rng.integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(folders[name] / f"{name}{i}.bmp")
    for i in range(copies):
        shutil.copy(folders["train"] / f"train{i}.bmp", folders["test"] / f"c{i}.bmp")
    return ImageFolder(folders["test"]), ImageFolder(folders["train"])


@pytest.fixture
def said(monkeypatch):
    """Level and text of what is logged."""
    found = []

    def log(text, logger, level=logging.INFO):
        found.append((level, text))

    monkeypatch.setattr("mmssl_ext.evaluation.copies.print_log", log)
    return found


def test_copied_files_are_said(tmp_path, said):
    say_copied_files(*sets(tmp_path, copies=3))
    ((level, text),) = said
    assert level == logging.WARNING
    assert text.startswith("3 of the 11 test images are also among the training")
    assert f"{tmp_path}/test/c0.bmp and {tmp_path}/train/train0.bmp" in text


def test_links_and_missing_files_among_the_test_images(tmp_path, said):
    _, training = sets(tmp_path, copies=1)
    (tmp_path / "test/link.bmp").symlink_to(tmp_path / "train/train7.bmp")
    (tmp_path / "train/train6.bmp").unlink()  # the loader will say so
    assert say_copied_files(ImageFolder(tmp_path / "test"), training, ("kNN", "own"))
    ((_, text),) = said
    assert text.startswith("2 of the 10 kNN images are also among the own images, e.g.")


def test_too_many_files_are_not_compared_and_that_is_said(tmp_path, said, monkeypatch):
    monkeypatch.setattr("mmssl_ext.evaluation.copies.MOST_FILES", 18)
    assert not say_copied_files(*sets(tmp_path, copies=3))
    ((level, text),) = said
    assert level == logging.INFO
    assert "they are 19 files, more than 18; `mmssl-ext duplicates`" in text


def test_large_copies_are_sampled(tmp_path, said, monkeypatch):
    monkeypatch.setattr("mmssl_ext.datasets.file_copies._MOST_BYTES", 400)
    say_copied_files(*sets(tmp_path, copies=6))  # of 174 bytes each
    ((_, text),) = said
    assert text.startswith("2 of the 10 test images looked at are also among")


@pytest.mark.parametrize("copies", [0, 5])
def test_few_copies_among_many_images_are_no_warning(copies, said):
    digests = torch.arange(1000)
    bank = Features({}, None, [""] * 1000, digests=digests)
    query = bank._replace(digests=digests + copies - 1000)
    say_copies(bank, query, ("query", "bank"))
    if copies:
        ((level, text),) = said
        assert level == logging.INFO
        assert text.startswith("5 of the 1000 query images")
    else:
        assert not said
