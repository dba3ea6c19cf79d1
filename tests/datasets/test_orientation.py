"""Photographs are upright in the whole chain, as OpenCV shows them to detectors."""

from __future__ import annotations

import io
import struct

import cv2
import mmcv.transforms
import numpy as np
import pytest
from PIL import Image

from mmssl_ext.datasets import DecodeImage
from mmssl_ext.datasets.transforms.orientation import jpeg_orientation, upright_size
from tests.ragged import save_turned, stored, upright

UPRIGHT = upright().astype(int)
NEW_OPENCV = int(cv2.__version__.split(".")[0]) > 4  # turns whatever we turn
NEAR = 12  # of 255, the mean error of WebP at the edges of the colours


def error(pixels, expected=UPRIGHT):
    pixels = np.asarray(pixels)
    assert pixels.shape == expected.shape
    return np.abs(pixels - expected.astype(int)).mean()


@pytest.mark.fault("R38")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_all_orientations_are_read_as_by_mmcv(tmp_path, suffix):
    for number in range(1, 9):
        path = save_turned(tmp_path / f"{number}{suffix}", number)
        read = DecodeImage()({"img_path": str(path)})["img"]
        assert error(read) < NEAR, number
        if suffix != ".webp" or NEW_OPENCV:
            shown = mmcv.transforms.LoadImageFromFile()({"img_path": str(path)})["img"]
            assert error(shown[..., ::-1]) < NEAR, number
        with Image.open(path) as img:
            assert upright_size(img) == (30, 20)
            assert np.array_equal(DecodeImage()({"img": img})["img"], read)
    turned = np.ascontiguousarray(stored(6))  # an array says nothing of EXIF
    assert np.array_equal(DecodeImage()({"img": turned})["img"], turned)


def block(value, kind=3, order="<", count=1):
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    packed = struct.pack(
        order + ("HH" if kind == 3 else "I"), *([value, 0][: 5 - kind])
    )
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + packed
    return b"Exif\0\0" + head + struct.pack(order + "H", count) + entry + bytes(4)


def with_blocks(*blocks):
    buffer = io.BytesIO()
    Image.fromarray(upright()).save(buffer, "JPEG", quality=98, subsampling=0)
    data = buffer.getvalue()
    segments = [b"\xff\xe1" + struct.pack(">H", len(x) + 2) + x for x in blocks]
    return data[:2] + b"".join(segments) + data[2:]


GOOD = {
    "big endian": with_blocks(block(3, order=">")),
    "a long": with_blocks(block(3, kind=4)),
    "after XMP": with_blocks(b"http://ns.adobe.com/xap/1.0/\0<x/>", block(3)),
    "after a broken block": with_blocks(b"Exif\0\0nothing", block(3)),
    "twice": with_blocks(block(3), block(6)),
    "more entries announced": with_blocks(block(3, count=60_000)),
}
BAD = {
    "none": with_blocks(),
    "zero": with_blocks(block(0)),
    "nine": with_blocks(block(9)),
    "cut": with_blocks(block(6)[:-10]),
    "text": with_blocks(b"Exif\0\0 but no more than that"),
    "empty": with_blocks(b"Exif\0\0"),
    "far away": with_blocks(block(6).replace(b"\x08\0\0\0", b"\xff\xff\xff\x7f")),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged metadata
@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_odd_exif_counts_as_opencv_counts_it_and_fails_no_image(name):
    data = GOOD.get(name) or BAD[name]
    expected = UPRIGHT[::-1, ::-1] if name in GOOD else UPRIGHT
    assert error(DecodeImage()({"img_bytes": data})["img"], expected) < 2
    if NEW_OPENCV or not name.startswith("after"):  # the first block alone, before
        shown = mmcv.imfrombytes(data, channel_order="rgb")
        assert error(shown, expected) < 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_broken_exif_of_other_formats_fails_no_image(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(upright()).save(path, exif=block(6)[:-10])
    assert error(DecodeImage()({"img_path": str(path)})["img"]) < NEAR


def test_only_the_head_of_a_file_is_searched():
    assert jpeg_orientation(with_blocks(block(8))) == 8
    assert jpeg_orientation(b"\xff\xd8") == 1
    assert jpeg_orientation(b"\xff\xd8\xff\xe1\xff\xffExif") == 1
    # Behind the start of the pixels there is no head any more.
    assert jpeg_orientation(with_blocks() + with_blocks(block(8))[2:]) == 1
