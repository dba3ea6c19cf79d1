"""Decoding: any file that PIL can read to 8-bit RGB, any other to one exception."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from mmssl_ext.registry import TRANSFORMS


class UnreadableImageError(RuntimeError):
    """An image cannot be decoded.

    The loader re-raises a worker's exception from its message alone, hence the second
    argument is optional.

    Args:
        path: Path of the image; the whole message if ``reason`` is None.
        reason: Why it cannot be read.
    """

    def __init__(self, path: str, reason: str | None = None) -> None:
        message = f"The image '{path}' cannot be read: {reason}."
        super().__init__(path if reason is None else message)


def _gray16_to_gray8(img: Image.Image) -> Image.Image:
    # PIL's own conversion clips at 255 and would turn most 16-bit images white.
    values = np.asarray(img)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"mode {img.mode} with values outside 0..65535")
    scaled = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled.astype(np.uint8))


def to_rgb(img: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: alpha is dropped, 16-bit gray is scaled by 1/257.

    Raises:
        ValueError: Modes without a defined 8-bit version (float, 32-bit, Lab).
    """
    if img.mode == "RGB":
        return img
    if img.mode == "F":
        raise ValueError("floating-point images have no defined 8-bit version")
    if img.mode.startswith("I"):
        img = _gray16_to_gray8(img)
    elif img.mode in ("La", "RGBa"):  # premultiplied: undo before alpha is dropped
        img = img.convert(img.mode.upper())
    elif img.mode == "P" and isinstance(img.info.get("transparency"), bytes):
        img = img.convert("RGBA")
    return img.convert("RGB")


@TRANSFORMS.register_module()
class DecodeImage:
    """Decode to a PIL image in RGB.

    Reads, in this order, ``results["img"]`` (PIL, or uint8 array H x W or H x W x 3),
    ``results["img_bytes"]`` or the file ``results["img_path"]``, and writes
    ``results["img"]``. The EXIF orientation is not applied, as in torchvision.

    Args:
        max_pixels: Refuse larger images before they are decoded. The default is PIL's
            own limit; PIL's error at twice ``PIL.Image.MAX_IMAGE_PIXELS`` remains.

    Raises:
        UnreadableImageError: For whatever cannot be read, e.g. a missing, empty or
            truncated file, a file of another type, or too many pixels.
    """

    def __init__(self, max_pixels: int = 178_956_970) -> None:
        self.max_pixels = max_pixels

    def __call__(self, results: dict) -> dict:
        """Replace or add ``results["img"]``."""
        try:
            results["img"] = self._decode(results)
        except MemoryError:
            raise
        # PIL's plugins raise almost anything on damaged data: OSError, SyntaxError,
        # ValueError, struct.error, zlib.error, IndexError, DecompressionBombError.
        except Exception as error:
            path = results.get("img_path", "in memory")
            raise UnreadableImageError(path, _reason(error)) from error
        return results

    def _decode(self, results: dict) -> Image.Image:
        source: Any = results.get("img")
        if isinstance(source, np.ndarray):
            return to_rgb(Image.fromarray(source))
        if isinstance(source, Image.Image):
            return to_rgb(source)
        if "img_bytes" in results:
            return self._read(io.BytesIO(results["img_bytes"]))
        with open(results["img_path"], "rb") as file:
            return self._read(file)

    def _read(self, file: Any) -> Image.Image:
        with Image.open(file) as img:
            if img.width * img.height > self.max_pixels:
                raise ValueError(
                    f"it has {img.width} x {img.height} pixels, more than "
                    f"max_pixels={self.max_pixels}"
                )
            img.load()
            return to_rgb(img)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty, or not in an image format that PIL knows"
    return f"{type(error).__name__}: {error}".rstrip(". ")
