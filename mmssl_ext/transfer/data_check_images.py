"""Images as a pipeline reads them: upright, in 8 bits, the first page of a file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmssl_ext.datasets.look import NUM_LOOKED_AT, look
from mmssl_ext.datasets.reading import read_file
from mmssl_ext.datasets.transforms.decode import FORMATS
from mmssl_ext.datasets.transforms.orientation import orientation_of, upright_size
from mmssl_ext.datasets.walk import ImageWalk

if TYPE_CHECKING:
    from .data_check_base import Findings, Source

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


def look_at_files(source: Source, findings: Findings, paths: Sequence[Path]) -> None:
    """Note what a few images hold that is not read, or is read otherwise than stored.

    Args:
        source: Whose images they are.
        findings: Gets the notices.
        paths: Images; those that are missing or unreadable are passed over.
    """
    step = max(1, -(-len(paths) // NUM_LOOKED_AT))
    chosen = [path for path in paths[::step] if path.is_file()]
    found = look((str(path), partial(_read, path)) for path in chosen)
    for sentence in found.warnings():
        findings.notice(source.place, sentence)
    if found.turned and not _is_read_as_stored(source):
        findings.notice(
            source.place,
            f"{len(found.turned)} of {found.seen} images looked at are turned by their "
            f"EXIF orientation ('{found.turned[0]}'): annotations must belong to the "
            f"upright image. Otherwise {HOW}.",
            logging.INFO,
        )


def _read(path: Path) -> bytes:
    return read_file(str(path))[0]


def note_links(source: Source, findings: Findings, walk: ImageWalk) -> None:
    """Note links by which the toolbox reads images again, which a walk does not."""
    if links := walk.account.repeated:
        more = ", ..." if len(links) > 1 else ""
        findings.notice(
            source.place,
            f"{walk.root} has links to folders that are read anyway "
            f"({links[0]}{more}): the toolbox reads their images again, and "
            "walks in a circle where a link leads up. Delete the links.",
        )
