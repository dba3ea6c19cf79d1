"""Which files of a folder are taken for images, in which order, and what is said."""

from __future__ import annotations

import os
import shutil
import socket

import pytest
from PIL import Image

from mmssl_ext.datasets import DecodeImage, ImageFolder, UnreadableImageError, walk
from mmssl_ext.datasets.listing import read_list
from mmssl_ext.datasets.transforms.decode import FORMATS
from mmssl_ext.datasets.walk import FolderError, ImageWalk, class_folders
from mmssl_ext.files import IMAGE_EXTENSIONS


@pytest.fixture
def said(monkeypatch):
    """Level and text of what a walk logs."""
    lines = []
    monkeypatch.setattr(
        walk, "print_log", lambda text, logger, level: lines.append((level, text))
    )
    return lines


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(root, **kwargs):
    dataset = ImageFolder(str(root), **kwargs)
    return [dataset.name(row) for row in range(len(dataset))]


def test_all_files_of_the_fixture_are_found_and_what_is_left_out_is_said(ragged, said):
    dataset = ImageFolder(str(ragged.photos), [DecodeImage()])
    assert tuple(dataset.name(i) for i in range(len(dataset))) == ragged.names
    for index, name in enumerate(ragged.names):
        if name == ragged.broken.name:
            with pytest.raises(UnreadableImageError, match=r"(?i)truncated"):
                dataset[index]
        else:
            assert dataset[index]["img"].shape[2] == 3
    assert said == [
        (
            30,  # a warning, for the loop
            f"'{ragged.photos}': found {ragged.num_photos} images, left out 3 files of "
            "other types (.txt 2, .mp4 1); 1 link to folders that are read anyway "
            "(trip/loop).",
        )
    ]


def test_sound_folders_are_read_in_silence(ragged, tmp_path, said):
    ImageFolder(str(ragged.train), labels="subfolders")
    touch(tmp_path, "x.jpg", "._x.jpg", ".DS_Store", ".git/config")
    assert names(tmp_path) == ["x.jpg"]
    assert said == []


def test_a_few_other_files_are_no_warning_but_many_are(tmp_path, said):
    touch(tmp_path, *(f"{i}.jpg" for i in range(120)), "notes.txt", "README")
    ImageFolder(str(tmp_path))
    touch(tmp_path, *(f"{i}.heic" for i in range(20)), ".old.png")
    ImageFolder(str(tmp_path))
    (low, few), (high, many) = said
    assert low == 20 and high == 30
    assert "found 120 images, left out 2 files of other types (" in few
    assert ".txt 1" in few and "without suffix 1" in few
    assert "left out 22 files of other types (.heic 20, " in many
    assert many.endswith("; 1 hidden image.")
    with pytest.raises(FileNotFoundError, match=r"142 files .* \(\.jpg 120, "):
        ImageFolder(str(tmp_path), extensions=".gif")
    assert len(names(tmp_path, extensions=".HEIC")) == 20


def test_images_outside_of_the_classes_are_counted(tmp_path, said):
    touch(tmp_path, "a/1.jpg", "2.jpg", "3.jpg", ".store/1.jpg")
    (tmp_path / "circle").symlink_to("circle")  # no class
    assert class_folders(str(tmp_path)) == ["a"]
    assert names(tmp_path, labels="subfolders") == ["a/1.jpg"]
    ((level, text),) = said
    assert level == 30
    assert "left out 2 images outside of its subfolders, which are the classes" in text
    (tmp_path / "shown").symlink_to(".store")  # a link to a hidden folder is followed
    assert "shown/1.jpg" in names(tmp_path)


@pytest.mark.fault("R39")
def test_the_suffixes_are_those_of_the_decoder():
    Image.init()
    known = {s for s, name in Image.registered_extensions().items() if name in FORMATS}
    # Floating point, refused; and what older versions of PIL do not know.
    assert known - set(IMAGE_EXTENSIONS) == {".pfm"} & known
    assert set(IMAGE_EXTENSIONS) - known <= {".mpo", ".pnm", ".dib", ".jpe"}


@pytest.mark.parametrize("suffix", [".JFIF", ".gif", ".dib"])
def test_every_suffix_counts_in_any_case_in_lists_too(tmp_path, suffix):
    touch(tmp_path, f"x y{suffix}")
    assert names(tmp_path) == [f"x y{suffix}"]
    (tmp_path / "list.txt").write_text(f"x y{suffix} 1\nb.jpg nolabel\n")
    with pytest.raises(ValueError, match="not an integer"):
        read_list(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text(f"b.png\nx y{suffix} 1\n")
    with pytest.raises(ValueError, match=r"Line 1 .* no integer label"):
        read_list(str(tmp_path / "list.txt"))


@pytest.mark.fault("R36")
def test_only_regular_files_are_images(tmp_path, said):
    touch(tmp_path, "a.jpg", "folder.jpg/b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    (tmp_path / "gone.jpg").symlink_to("nothing")
    (tmp_path / "good.jpg").symlink_to("a.jpg")
    before = os.getcwd()
    os.chdir(tmp_path)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.jpg")
    finally:
        os.chdir(before)
    # What dangles stays an image that cannot be read: its disk may be missing.
    assert names(tmp_path) == [
        *("a.jpg", "circle.jpg", "folder.jpg/b.jpg", "gone.jpg", "good.jpg")
    ]
    ((level, text),) = said
    assert level == 30
    assert "3 special files, such as a pipe or device (pipe.jpg, socket.jpg, " in text


def test_each_folder_is_read_once_however_many_links_lead_to_it(tmp_path, said):
    root = tmp_path / "root"
    touch(root, "b/1.jpg", "b/inner/2.jpg", "z.jpg")
    touch(tmp_path / "outside", "3.jpg", "deep/4.jpg")
    (root / "a").symlink_to(root / "b")  # in the tree: read by its own name
    (root / "b" / "up").symlink_to(root)
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "d").symlink_to(tmp_path / "outside" / "deep")
    (tmp_path / "outside" / "back").symlink_to(root)
    (tmp_path / "outside" / "all").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    found = ImageWalk(str(root), IMAGE_EXTENSIONS)
    expected = ["b/1.jpg", "b/inner/2.jpg", "c/3.jpg", "c/deep/4.jpg", "z.jpg"]
    assert list(found) == expected
    repeated = ["a", "b/up", "c/all/outside", "c/all/root", "c/back", "d"]
    assert found.account.repeated == repeated
    assert names(root) == names(os.path.relpath(root)) == expected


def test_a_path_that_the_system_does_not_take_is_one_sentence(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(50):  # by steps, as the path is long
        os.mkdir("d" * 100, dir_fd=folder)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    with pytest.raises(FolderError, match=r"has 4,\d\d\d bytes, more than the system"):
        ImageFolder(str(tmp_path))
    shutil.rmtree(tmp_path / ("d" * 100))


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scandir = os.scandir

    def refuse(folder):
        if folder.endswith("/b/"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(FolderError, match=r"b' cannot be read: Permission denied"):
        ImageFolder(str(tmp_path))
