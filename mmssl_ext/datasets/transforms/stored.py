"""The bands of any image file, in the depth in which they are stored."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from ..reading import NoImageError
from ..tiff import is_tiff, read_tiff
from .decode import left_to_turn, opened
from .orientation import jpeg_orientation, turn

_ONE_BAND = {"1": "L"}
_KEPT = ("L", "LA", "RGB", "RGBA")  # other modes of 8 bits become one of these


def read_bands(data: bytes) -> tuple[np.ndarray, str]:
    """Decode a file, upright, and keep its depth and all of its bands.

    Args:
        data: The whole file.

    Returns:
        Values as they are stored, H x W x C: of TIFF any number of bands in any type,
        of other formats gray, RGB or either with alpha, in 8 or 16 bits. And a phrase
        on the layout.

    Raises:
        NoImageError: It holds none.
        UserError: A package that the file needs is missing.
    """
    if is_tiff(data):
        values, orientation, layout = read_tiff(data)
    else:
        with opened(data) as img:
            turned = jpeg_orientation(data) if data[:2] == b"\xff\xd8" else None
            is_deep = ";16" in str(getattr(img, "tile", ""))
            orientation = left_to_turn(img) if turned is None else turned
            values = _deep(data) if is_deep and img.mode in _KEPT else bands_of(img)
        layout = f"{values.shape[-1]} bands of {img.format}"
    if orientation > 1:  # one by one, for OpenCV turns four at most
        planes = (np.ascontiguousarray(x) for x in np.moveaxis(values, -1, 0))
        values = np.stack([turn(plane, orientation) for plane in planes], -1)
    return values, layout


def bands_of(img: Image.Image) -> np.ndarray:
    """The values of a PIL image, H x W x C.

    Raises:
        NoImageError: Its values fit in no type.
    """
    img.load()
    if img.mode.startswith("I"):
        values = np.array(img)
        if img.mode == "I" and (values.min() < 0 or values.max() > 65535):
            return values[..., None]
        return values.astype(np.uint16)[..., None]
    if img.mode not in (*_KEPT, "F"):
        clear = "transparency" in img.info
        kind = "RGBA" if clear or img.mode in ("RGBa", "La", "PA") else "RGB"
        img = img.convert(_ONE_BAND.get(img.mode, kind))
    values = np.array(img)
    return values if values.ndim == 3 else values[..., None]


def _deep(data: bytes) -> np.ndarray:
    """Colours in 16 bits, of which PIL would keep 8."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise NoImageError("it is damaged")
    if values.ndim == 2:
        return values[..., None]
    order = (2, 1, 0, 3)[: values.shape[-1]] if values.shape[-1] > 2 else (0, 1)
    return values[..., order]
