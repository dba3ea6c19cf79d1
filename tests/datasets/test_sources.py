"""Finding images: folders, lists and CIFAR-10."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl_ext.datasets import CIFAR10, ImageFolder, ImageList

from .helpers import EVALUATION, write_cifar, write_folder

CIFAR_UNPACKER = Path(os.environ.get("MMSSL_CIFAR10", ""), "unpack_cifar10.py")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(dataset, root):
    paths = [dataset.get_data_info(i)["img_path"] for i in range(len(dataset))]
    return [os.path.relpath(p, root).replace(os.sep, "/") for p in paths]


def test_subfolders_are_classes(tmp_path):
    touch(tmp_path, "dog/1.JPEG", "cat/x/2.jpg", "cat/3.jpg", "stray.jpg", "bird/a.txt")
    dataset = ImageFolder(str(tmp_path), labels="subfolders")
    assert names(dataset, tmp_path) == ["cat/3.jpg", "cat/x/2.jpg", "dog/1.JPEG"]
    assert dataset.metainfo["classes"] == ("bird", "cat", "dog")
    assert dataset.labels.tolist() == [1, 1, 2]
    assert dataset.get_data_info(2)["gt_label"] == 2


def test_max_images_is_an_evenly_spaced_subset(tmp_path):
    touch(tmp_path, *(f"{c}/{i}.jpg" for c in "abcd" for i in range(5)))
    dataset = ImageFolder(str(tmp_path), labels="subfolders", max_images=8)
    assert len(dataset) == 8
    assert np.bincount(dataset.labels).tolist() == [2, 2, 2, 2]
    assert names(dataset, tmp_path)[:3] == ["a/0.jpg", "a/2.jpg", "b/0.jpg"]
    assert [dataset.get_data_info(i)["sample_idx"] for i in range(8)] == list(range(8))
    assert len(ImageFolder(str(tmp_path), max_images=100)) == 20
    write_folder(tmp_path / "read", 3)
    dataset = ImageFolder(str(tmp_path / "read"), pipeline=EVALUATION)
    assert dataset[-1]["data_samples"].sample_idx == 2 and len(list(dataset)) == 3
    with pytest.raises(IndexError, match="has 3"):
        dataset[3]


def test_folders_without_images_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*does not exist"):
        ImageFolder(str(tmp_path / "nowhere"))
    touch(tmp_path, "file.txt")
    with pytest.raises(FileNotFoundError, match=r"No image was found.*\.jpg, \.jpeg"):
        ImageFolder(str(tmp_path))
    with pytest.raises(NotADirectoryError, match="ImageList"):
        ImageFolder(str(tmp_path / "file.txt"))
    touch(tmp_path, "1.jpg")
    with pytest.raises(FileNotFoundError, match="in the subfolders of"):
        ImageFolder(str(tmp_path), labels="subfolders")
    for kwargs in ({"labels": "yes"}, {"on_error": "ignore"}, {"max_images": 0}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            ImageFolder(str(tmp_path), **kwargs)


@pytest.mark.parametrize(
    ("text", "paths", "labels"),
    [
        ("a.jpg\n\n# note\nb c.png\r\n", ["a.jpg", "b c.png"], None),
        ("a b.jpg 3\n  c.jpg\t0  \n", ["a b.jpg", "c.jpg"], [3, 0]),
        ("\ufeffa.jpg 1", ["a.jpg"], [1]),
        ("trip 2019\ntrip two", ["trip 2019", "trip two"], None),
        ("x.jpg copy/é.png", ["x.jpg copy/é.png"], None),
        ("a.jpg 10 2\nb.jpg 4 1", ["a.jpg 10", "b.jpg 4"], [2, 1]),
    ],
)
def test_list_formats(tmp_path, text, paths, labels):
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    dataset = ImageList(str(tmp_path / "list.txt"), root=str(tmp_path))
    assert names(dataset, tmp_path) == paths
    assert (None if dataset.labels is None else dataset.labels.tolist()) == labels
    assert ("classes" in dataset.metainfo) == (labels is not None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\n\nb.jpg\n", "Line 3 .*no integer label.*'b.jpg'"),
        ("a.jpg 1\nb.jpg -1\n", "Line 2 .*its label is not in 0 to"),
        ("a.jpg\nb.jpg cat\n", "Line 2 .*not an integer"),
        ("a.jpg\nb\0.jpg\n", "Line 2 .*zero byte"),
        ("\n# only a note\n", "is empty"),
    ],
)
def test_malformed_lists_are_explained(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        ImageList(str(tmp_path / "list.txt"))


def test_list_and_its_root_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="ann_file"):
        ImageList(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text("a.jpg 4")
    with pytest.raises(FileNotFoundError, match=r"`root`"):
        ImageList(str(tmp_path / "list.txt"), root=str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"label 4.*2 classes"):
        ImageList(str(tmp_path / "list.txt"), classes=("a", "b"))


def test_cifar_pixels_labels_and_names(tmp_path):
    pixels = write_cifar(tmp_path)
    pipeline = [{"type": "DecodeImage"}, {"type": "PackViews"}]
    dataset = CIFAR10(str(tmp_path), pipeline, verify_md5=False, max_images=10)
    assert len(dataset) == 10
    for index in range(10):
        item = dataset[index]
        assert torch.equal(item["inputs"], torch.from_numpy(pixels[3 * index]))
        assert item["data_samples"].img_path == f"cifar10/train/{3 * index:05d}"
        assert item["data_samples"].gt_label.item() == dataset.labels[index]
    assert len(dataset.metainfo["classes"]) == 10
    assert len(CIFAR10(str(tmp_path), split="test", verify_md5=False)) == 6


def test_cifar_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.*download=True"):
        CIFAR10(str(tmp_path))
    write_cifar(tmp_path)
    with pytest.raises(ValueError, match="verify_md5=False"):
        CIFAR10(str(tmp_path))
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(ValueError, match="incomplete"):
        CIFAR10(str(tmp_path), verify_md5=False)
    with pytest.raises(ValueError, match="split"):
        CIFAR10(str(tmp_path), split="val")


def test_fingerprint_of_a_folder(tmp_path):
    root = tmp_path / "root"
    touch(root, "a/1.jpg", "a/2.jpg", "b/1.jpg")

    def fingerprint(**options):
        return ImageFolder(str(root), **options).fingerprint()

    first = fingerprint()
    assert type(first) is int and 0 < first < 2**63
    # pipeline, labels and the way the root is written are no matter
    assert fingerprint(labels="subfolders", pipeline=EVALUATION) == first
    assert ImageFolder(os.path.relpath(f"{root}/")).fingerprint() == first
    seen = [first]
    touch(root, "b/2.jpg")  # one more
    seen.append(fingerprint())
    for old, new in (("b/2.jpg", "b/3.jpg"), ("b/3.jpg", "a/3.jpg"), ("a", "c")):
        (root / old).rename(root / new)  # another name, another folder
        seen.append(fingerprint())
    assert len(set(seen)) == 5
    root.rename(tmp_path / "moved")
    assert ImageFolder(str(tmp_path / "moved")).fingerprint() == seen[-1]


def test_fingerprint_of_a_list(tmp_path):
    root = tmp_path / "root"
    touch(root, *(f"{i}.jpg" for i in range(3)))

    def fingerprint(lines, **options):
        (tmp_path / "list.txt").write_text("\n".join(lines.split("|")))
        data = ImageList(str(tmp_path / "list.txt"), str(root), **options)
        return data.fingerprint()

    first = fingerprint("0.jpg|1.jpg|2.jpg")
    assert fingerprint("0.jpg 5|1.jpg 0|2.jpg 1") == first  # labels
    assert fingerprint("# note|0.jpg||1.jpg|2.jpg") == first
    others = ["1.jpg|0.jpg|2.jpg", "0.jpg|1.jpg", "0.jpg|1.jpg|3.jpg"]
    others += ["0.jpg|1.jpg|2.jpg|2.jpg", "0.jpg1.jpg|2.jpg", "0.jpg|1.jpg2.jpg"]
    assert len({first, *map(fingerprint, others)}) == 7
    part = fingerprint("0.jpg|3.jpg|1.jpg|3.jpg", max_images=2)
    assert part == fingerprint("0.jpg|1.jpg")
    # a list and a folder of the same images in the same order go together
    assert ImageFolder(str(root)).fingerprint() == first


def test_fingerprint_of_cifar_and_of_a_part(tmp_path):
    write_cifar(tmp_path)

    def fingerprint(**options):
        return CIFAR10(str(tmp_path), verify_md5=False, **options).fingerprint()

    variants = ({}, {"split": "test"}, {"max_images": 6}, {"max_images": 7})
    assert len({fingerprint(**options) for options in variants}) == 4
    assert fingerprint(max_images=100) == fingerprint()


@pytest.mark.slow
@pytest.mark.skipif(
    not CIFAR_UNPACKER.is_file(), reason="MMSSL_CIFAR10 names no copy of CIFAR-10"
)
def test_real_cifar_pixels(tmp_path):
    command = [sys.executable, CIFAR_UNPACKER, CIFAR_UNPACKER.parent, tmp_path]
    subprocess.run(command, check=True)
    digests = {
        "train": "a18ec1384dc5d809e0d73440086ff118438410f1c69d02fae1db07327c5f9a40",
        "test": "4674ac8c77f372061aaf9216c8857c99599d5df0bb9f6b16a3de613ef8eb348a",
    }
    for split, digest in digests.items():
        dataset = CIFAR10(str(tmp_path), split=split, verify_md5=False)
        assert np.bincount(dataset.labels).tolist() == [len(dataset) // 10] * 10
        pixels = np.ascontiguousarray(dataset.images)  # n x 32 x 32 x 3
        assert hashlib.sha256(pixels.data).hexdigest() == digest
