"""The size of an image as a pipeline reads it, that is upright."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mmssl_ext.datasets.transforms.decode import FORMATS
from mmssl_ext.datasets.transforms.orientation import orientation_of, upright_size

from .data_check_base import Source

# What mmcv does not turn: decoders without EXIF, and flags that say so.
_BACKENDS = ("turbojpeg", "tifffile")
_FLAGS = ("unchanged", "ignore_orientation")
HOW = (
    "write the image without EXIF orientation, or read all as they are stored by "
    'LoadImageFromFile(color_type="color_ignore_orientation")'
)


def size_as_read(source: Source, path: Path) -> tuple[tuple[int, int], int]:
    """Return width and height of an image for the network, from its head alone.

    Returns:
        The size, and the EXIF orientation that the image is turned by; 1 if it is not.
    """
    with Image.open(path, formats=FORMATS) as img:
        orientation = orientation_of(img)
        width, height = upright_size(img)
    if orientation > 1 and _is_read_as_stored(source):
        return ((height, width) if orientation >= 5 else (width, height)), 1
    return (width, height), orientation


def _is_read_as_stored(source: Source) -> bool:
    for step in source.cfg.get("pipeline") or ():
        if str(step.get("type", "")).endswith("LoadImageFromFile"):
            flag = str(step.get("color_type", "color"))
            decoder = step.get("imdecode_backend", "cv2")
            return decoder in _BACKENDS or any(word in flag for word in _FLAGS)
    return False
