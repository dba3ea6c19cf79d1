"""Decoding: any file in a format of pixels to 8-bit RGB, any other to one exception."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch.utils.data import get_worker_info

from mmssl_ext.registry import TRANSFORMS
from mmssl_ext.text import shown

from ..reading import NoImageError, read_file, what_it_is
from .orientation import jpeg_orientation, orientation_of, turn
from .random import check_choice

#: PIL would take a file of any name for a document too, and start Ghostscript for it.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000")


class UnreadableImageError(RuntimeError):
    """An image cannot be decoded.

    The loader re-raises a worker's exception from its message alone, hence the second
    argument is optional.

    Args:
        path: Path of the image; the whole message if ``reason`` is None.
        reason: Why it cannot be read.
    """

    def __init__(self, path: str, reason: str | None = None) -> None:
        message = f"The image '{shown(path)}' cannot be read: {reason}."
        super().__init__(path if reason is None else message)


def to_rgb(img: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: alpha is dropped, 16-bit gray is scaled by 1/257.

    Raises:
        ValueError: Modes without a defined 8-bit version (float, 32-bit, Lab).
    """
    if img.mode == "RGB":
        return img
    if img.mode == "F":
        raise NoImageError("floating-point images have no defined 8-bit version")
    if img.mode.startswith("I"):
        # PIL's own conversion clips at 255 and would turn most 16-bit images white.
        values = np.asarray(img)
        if values.min() < 0 or values.max() > 65535:
            raise NoImageError(f"mode {img.mode} with values outside 0..65535")
        scaled = (values.astype(np.uint32) + 128) // 257
        img = Image.fromarray(scaled.astype(np.uint8))
    elif img.mode in ("La", "RGBa"):  # premultiplied: undo before alpha is dropped
        img = img.convert(img.mode.upper())
    elif img.mode == "P" and isinstance(img.info.get("transparency"), bytes):
        img = img.convert("RGBA")
    return img.convert("RGB")


@TRANSFORMS.register_module()
class DecodeImage:
    """Decode to 8-bit RGB.

    Reads, in this order, ``results["img"]`` (PIL, or uint8 array H x W or H x W x 3),
    ``results["img_bytes"]`` or the file ``results["img_path"]``, and writes
    ``results["img"]``, upright: the EXIF orientation is applied, as by mmcv's
    ``LoadImageFromFile``, and EXIF that is damaged is left out of account.

    Args:
        backend: What ``results["img"]`` becomes: ``"array"``, a uint8 array H x W x 3,
            or ``"pil"``, a PIL image of the same pixels, for transforms that want one,
            such as torchvision's. The transforms of this package take both, and return
            what they were given; arrays are faster.

    Raises:
        UnreadableImageError: For whatever cannot be read, e.g. a missing, empty or
            truncated file, a file of another type, or more pixels than twice
            ``PIL.Image.MAX_IMAGE_PIXELS``.
    """

    keeps_box = True  # of the upright image, which it makes before anything is cut

    def __init__(self, backend: str = "array") -> None:
        check_choice("DecodeImage: backend", backend, "array", "pil")
        self.backend = backend

    def __call__(self, results: dict) -> dict:
        """Replace or add ``results["img"]``."""
        # A worker has one core. One that was not forked from a runner does not know.
        if get_worker_info() is not None:
            cv2.setNumThreads(0)
        try:
            pixels = self._decode(results)
        except MemoryError:
            raise
        # PIL's plugins raise almost anything on damaged data: OSError, SyntaxError,
        # ValueError, struct.error, zlib.error, IndexError, DecompressionBombError.
        except Exception as error:
            path = results.get("img_path", "in memory")
            raise UnreadableImageError(path, reason_of(error)) from error
        is_pil = self.backend == "pil"
        results["img"] = Image.fromarray(pixels) if is_pil else pixels
        return results

    def _decode(self, results: dict) -> np.ndarray:
        source: Any = results.get("img")
        if isinstance(source, np.ndarray):
            if source.dtype == np.uint8 and source.shape[2:] == (3,):
                return np.array(source, order="C")  # the dataset's own is not touched
            return _pixels(Image.fromarray(source))
        if isinstance(source, Image.Image):
            source.load()
            return turn(_pixels(source), left_to_turn(source))
        if "img_bytes" in results:
            return self._read(results["img_bytes"])
        data, _ = read_file(results["img_path"])
        return self._read(data)

    def _read(self, data: bytes) -> np.ndarray:
        is_jpeg = data[:2] == b"\xff\xd8"
        if is_jpeg and (pixels := self._read_jpeg(data)) is not None:
            return turn(pixels, jpeg_orientation(data))
        with opened(data) as img:
            img.load()
            found = jpeg_orientation(data) if is_jpeg else left_to_turn(img)
            return turn(_pixels(img), found)

    def _read_jpeg(self, data: bytes) -> np.ndarray | None:
        """Decode without PIL; None where anything is odd, and PIL has to decide."""
        limit = Image.MAX_IMAGE_PIXELS or float("inf")  # PIL refuses twice as many
        try:
            height, width, colours, _ = decode_jpeg_header(data, strict=True)
            if height * width > limit or colours in ("CMYK", "YCCK"):
                return None
            return decode_jpeg(data, "RGB", strict=True)
        except ValueError:  # also of libjpeg's warnings
            return None


def _pixels(img: Image.Image) -> np.ndarray:
    return np.array(to_rgb(img))  # not np.asarray, which would be read-only


def left_to_turn(img: Image.Image) -> int:
    """The orientation by which loaded pixels still have to be turned, else 1."""
    is_tiff = hasattr(img, "tag_v2")  # turned by PIL when it loads them
    return 1 if is_tiff else orientation_of(img)


def opened(data: bytes) -> Image.Image:
    """Open a file in one of the :data:`FORMATS`; its pixels are not loaded yet.

    Raises:
        NoImageError: It is in none of them.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        other = f"it is not in an image format like {', '.join(FORMATS)}"
        raise NoImageError(what_it_is(data) or other) from error


def reason_of(error: Exception) -> str:
    """Why an image cannot be read, as a part of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, NoImageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}".rstrip(". ")
