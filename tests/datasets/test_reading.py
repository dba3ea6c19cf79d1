"""Only regular files of a sane size are read, and the cause is named otherwise."""

from __future__ import annotations

import io
import os
import struct
import time

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from torch.utils.data import ConcatDataset, Subset

from mmssl_ext.datasets import (
    DecodeImage,
    ImageFolder,
    ImageShards,
    UnreadableImageError,
    reading,
)
from mmssl_ext.datasets.look import look, look_at_dataset, warn_of_unread
from mmssl_ext.datasets.shard_writer import make_shards
from mmssl_ext.datasets.shards import ShardError

from .helpers import picture, write_folder

SPECIAL = {
    "pipe.jpg": r"it is a pipe \(FIFO\), no regular file",
    "linked pipe.jpg": "it is a pipe",
    "zero.jpg": "it is a device",
    "terminal.jpg": "it is a device",
    "proc.jpg": "it is empty",
    "folder.jpg": "Is a directory",
    "circle.jpg": "Too many levels of symbolic links",
    "sparse.jpg": "it has 214,748,364,800 bytes, more than the 1,073,741,824",
    "holes.jpg": "it begins with zero bytes",
}


@pytest.mark.fault("R36")
def test_what_is_no_file_of_an_image_is_refused_at_once_and_by_its_kind(
    tmp_path, monkeypatch
):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    links = {"linked pipe": "pipe.jpg", "zero": "/dev/zero", "terminal": "/dev/tty"}
    links |= {"proc": "/proc/self/maps", "circle": "circle.jpg"}
    for name, target in links.items():
        (tmp_path / f"{name}.jpg").symlink_to(target)
    for name, size in (("sparse.jpg", 200 << 30), ("holes.jpg", 1 << 29)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    opened, open_ = [], os.open

    def note(path, *args, **options):
        opened.append(os.path.basename(path))
        return open_(path, *args, **options)

    monkeypatch.setattr(os, "open", note)
    start = time.monotonic()
    for name, reason in SPECIAL.items():
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            DecodeImage()({"img_path": str(tmp_path / name)})
        assert f"The image '{tmp_path / name}' cannot be read: " in str(caught.value)
    assert time.monotonic() - start < 5
    # Opening a device may already do something.
    assert not {"pipe.jpg", "zero.jpg", "terminal.jpg", "sparse.jpg"} & set(opened)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_bytes(b"a file")
    status = os.stat(tmp_path / "x.jpg")
    os.remove(tmp_path / "x.jpg")
    os.mkfifo(tmp_path / "x.jpg")
    monkeypatch.setattr(os, "stat", lambda path: status)
    with pytest.raises(reading.NoImageError, match="a pipe"):
        reading.read_file(str(tmp_path / "x.jpg"))


def test_shards_take_and_give_no_image_of_more_bytes(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", 3)
    make_shards(str(tmp_path / "images"), str(tmp_path / "made"))
    size = max(p.stat().st_size for p in (tmp_path / "images").iterdir())
    monkeypatch.setattr("mmssl_ext.datasets.shard_writer.MAX_FILE_BYTES", size - 1)
    with pytest.raises(ShardError, match=rf"it has {size:,} bytes, more than"):
        make_shards(str(tmp_path / "images"), str(tmp_path / "again"))
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr("mmssl_ext.datasets.shards.MAX_FILE_BYTES", 10)
    with pytest.raises(UnreadableImageError, match="bytes, more than"):
        ImageShards(str(tmp_path / "made"), [DecodeImage()])[0]


# -- What it is, where no decoder knows it ---------------------------------------------


def tiff(bands, bits=8, extra=0, gray=None):
    """A plain, valid TIFF of three bands or more."""
    gray = bands > 4 if gray is None else gray
    data = (bytes(range(256)) * 3)[: 6 * 5 * bands * bits // 8]
    extras = bands - (1 if gray else 3)
    end = 8 + 2 + 12 * (11 if extras else 10) + 4
    entries = [  # tag, kind, number of values, value or its place
        *((256, 3, 1, 6), (257, 3, 1, 5), (258, 3, bands, end), (259, 3, 1, 1)),
        *((262, 3, 1, 1 if gray else 2), (273, 4, 1, end + 2 * (bands + extras))),
        *((277, 3, 1, bands), (278, 3, 1, 5), (279, 4, 1, len(data)), (284, 3, 1, 1)),
    ]
    if extras:  # few of them stand in the entry
        entries.append((338, 3, extras, extra if extras < 3 else end + 2 * bands))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag, kind, count, value in entries:
        long = kind == 4 or count > 1
        head += struct.pack("<HHI", tag, kind, count)
        head += struct.pack("<I", value) if long else struct.pack("<HH", value, 0)
    lists = [bits] * bands + [extra] * extras
    return head + bytes(4) + struct.pack(f"<{len(lists)}H", *lists) + data


KINDS = {
    "it is empty": b"",
    r"it is a TIFF file in a layout that cannot be read \(7 bands": tiff(7),
    r"in a layout that cannot be read \(3 bands of 32 bits\)": tiff(3, bits=32),
    "it is in HEIC: convert it": b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(40),
    "it is a film": b"\0\0\0\x18ftypmp42\0\0\0\0" + bytes(40),
    "it is a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid",
    "it is a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "it begins with zero bytes": bytes(4096),
    "it is not in an image format like JPEG": b"just some text",
}


@pytest.mark.fault("R39")
@pytest.mark.parametrize("reason", KINDS)
def test_the_cause_is_named(reason):
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        DecodeImage()({"img_bytes": KINDS[reason], "img_path": "x.jpg"})
    if reason != "it is empty":
        assert "it is empty" not in str(caught.value)


# -- What is in an image, but not read -------------------------------------------------


def looked(*images):
    return look((f"{i}.tif", lambda data=data: data) for i, data in enumerate(images))


def saved(image, kind="TIFF", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep(top, kind="PNG"):
    values = np.linspace(0, top, 1200).reshape(30, 40).astype(np.uint16)
    return saved(Image.fromarray(values), kind)


@pytest.mark.fault("R39")
def test_twelve_bits_of_sixteen_are_said_with_the_way_out():
    for kind in ("PNG", "TIFF"):
        (text,) = looked(deep(4095, kind), deep(4000, kind)).warnings()
        assert text.startswith(
            "2 of 2 images looked at use less than a tenth of the range of their 16 "
            "bits (the largest value of '0.tif' is 4,095 of 65,535), so they are "
        )
        assert 'value_range=[0, 4095] and bands=[0, 0, 0] ("Bands" in docs' in text
    values = np.full((8, 8, 3), 4095, np.uint16)  # PIL keeps the upper 8 bits
    _, colours = cv2.imencode(".png", values)
    (text,) = looked(colours.tobytes()).warnings()
    assert "range of their 16 bits (the largest value of '0.tif' is 15 of 255)" in text
    labels = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5))
    (text,) = looked(saved(labels, "PNG"), saved(picture(), "PNG")).warnings()
    assert "1 of 2 images looked at use less than a tenth of the range of" in text
    assert "'0.tif' is 19 of 255)" in text and text.endswith("they are label maps.")


@pytest.mark.parametrize(
    "images",
    [
        [deep(65535)],
        [deep(6600)],
        [deep(65535), deep(60000), deep(3)],  # a dark frame among others
        [saved(picture()), saved(picture().convert("L"))],
        [saved(picture(), kind) for kind in ("PNG", "WEBP", "GIF", "JPEG2000", "PPM")],
        [saved(picture().convert("RGBA"), "PNG")],  # opaque
        [b"no image", b""],
        [],
    ],
)
def test_sound_images_are_passed_in_silence(images):
    assert looked(*images).warnings() == []


def test_further_pages_and_frames_are_said():
    pages = [picture(i) for i in range(3)]
    several = dict(save_all=True, append_images=pages[1:])
    found = looked(
        *(saved(pages[0], kind, **several) for kind in ("TIFF", "GIF", "WEBP", "PNG")),
        saved(pages[0]),
    )
    assert found.pages == ["0.tif", "1.tif", "2.tif", "3.tif"]
    (text,) = found.warnings()
    assert text.startswith("4 of 5 images looked at have further pages or frames ('0.")


def test_smaller_versions_of_a_page_are_no_pages(tmp_path):
    """As geographers' TIFF files have them, and telephones' JPEG files a gain map."""
    pages = [picture(i) for i in range(3)]
    small = TiffImagePlugin.ImageFileDirectory_v2()
    small[254] = 1
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer) as file:
        for page, info in zip(pages, ({}, small, small), strict=True):
            page.save(file, "TIFF", tiffinfo=info)
            file.newFrame()
    data = buffer.getvalue()
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.n_frames == 3
    assert looked(data).pages == []
    several = dict(save_all=True, append_images=pages[1:])
    assert looked(saved(pages[0], "MPO", **several)).pages == []


def test_a_fourth_band_that_says_something_is_said():
    clear = picture().convert("RGBA")
    clear.putalpha(100)
    found = looked(
        saved(clear, "PNG"),
        saved(clear),
        tiff(4, extra=0),  # of unspecified meaning
        tiff(4, extra=2),  # alpha
        tiff(5, gray=False),  # PIL reads three of them
        saved(picture().convert("RGBA")),
    )
    assert found.bands == [f"{i}.tif" for i in range(5)]
    (text,) = found.warnings()
    assert text.startswith("5 of 6 images looked at have more bands ('0.tif') than the")


def test_a_look_takes_a_few_images_of_folders_and_shards_and_little_time(
    tmp_path, monkeypatch
):
    write_folder(tmp_path / "images", 40)
    (tmp_path / "images" / "000.png").write_bytes(b"broken")
    assert look_at_dataset(ImageFolder(str(tmp_path / "images"))).seen == 15
    make_shards(str(tmp_path / "images"), str(tmp_path / "made"))
    assert look_at_dataset(ImageShards(str(tmp_path / "made"))).seen == 15
    monkeypatch.setattr("mmssl_ext.datasets.look.SECONDS", -1)
    assert look_at_dataset(ImageFolder(str(tmp_path / "images"))).seen <= 1


def test_sets_within_wrappers_are_looked_at(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(deep(4095))
    said = []
    monkeypatch.setattr(
        "mmssl_ext.datasets.look.print_log", lambda text, **_: said.append(text)
    )
    inner = ImageFolder(str(tmp_path))
    warn_of_unread(ConcatDataset([Subset(inner, [0]), inner]))
    warn_of_unread([1, 2, 3])  # a dataset of another kind is left alone
    assert len(said) == 2
    assert all("3 of 3 images looked at use less than a tenth" in x for x in said)
