"""Which way up an image is: the EXIF orientation, as OpenCV applies it.

A camera that is held upright stores the rows of its sensor and notes in the file how
to turn them. mmcv's ``LoadImageFromFile``, by OpenCV, shows such an image upright; so
does :class:`DecodeImage`, and a chain of the two learns from the same pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

_WIDTH, _HEIGHT, _TAG = 0x0100, 0x0101, 0x0112
_MARK = b"Exif\0\0"
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment behind them

# What has to be done to see stored pixels upright, by their orientation.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels, H x W x 3, so that they are upright.

    Where nothing has to be done, they are returned as they are; with an EXIF
    orientation of 5 to 8 the sides are exchanged.
    """
    return _TURNS[orientation](pixels) if orientation in _TURNS else pixels


def orientation_of(img: Image.Image) -> int:
    """The orientation that the head of an opened file states, else 1.

    Its pixels must not have been loaded yet: PIL turns those of TIFF files itself.
    """
    tags = getattr(img, "tag_v2", None)
    if tags is None:
        return exif_orientation(img.info.get("exif")) or 1
    try:
        found = tags.get(_TAG, 1)
    except Exception:  # the file is damaged; its pixels may be whole
        return 1
    return found if found in _TURNS else 1


def upright_size(img: Image.Image) -> tuple[int, int]:
    """Width and height that an opened PIL image has when it is upright.

    Its pixels must not have been loaded yet.
    """
    width, height = img.size
    if (tags := getattr(img, "tag_v2", None)) is not None:
        # Newer versions of PIL exchange the sides of a TIFF file when they open it.
        width, height = tags.get(_WIDTH, width), tags.get(_HEIGHT, height)
    return (height, width) if orientation_of(img) >= 5 else (width, height)


def jpeg_orientation(data: bytes | memoryview) -> int:
    """The orientation in the head of a JPEG file, 1 where it has none."""
    place, end = 2, len(data)
    while place + 4 <= end and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # filling
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker == _START_OF_SCAN:
            break
        else:
            length = data[place + 2] << 8 | data[place + 3]
            block = data[place + 4 : place + 2 + length] if marker == _APP1 else b""
            if block[:6] == _MARK and (found := exif_orientation(block)):
                return found
            place += 2 + length
    return 1


def exif_orientation(exif: bytes | memoryview | None) -> int:
    """The orientation in a block of EXIF, 0 where it has none or is damaged.

    Args:
        exif: In the layout of TIFF, with or without ``Exif`` before it.
    """
    tags = Image.Exif()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged tags; what was read counts
        try:
            tags.load(bytes(exif or b""))
            found = int(tags.get(_TAG, 0))
        except Exception:  # PIL raises almost anything on damaged data
            return 0
    return found if 1 <= found <= 8 else 0
