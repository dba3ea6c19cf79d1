"""Images as a pipeline reads them: upright, in 8 bits, the first page of a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mmssl_ext.datasets.look import NUM_LOOKED_AT, look
from mmssl_ext.datasets.reading import MAX_FILE_BYTES, read_file, too_large
from mmssl_ext.datasets.transforms.decode import FORMATS
from mmssl_ext.datasets.transforms.orientation import orientation_of, upright_size
from mmssl_ext.datasets.walk import ImageWalk
from mmssl_ext.text import shown

if TYPE_CHECKING:
    from .base import Findings, Source

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
    if orientation > 1 and not _turns_images(source):
        return ((height, width) if orientation >= 5 else (width, height)), 1
    return (width, height), orientation


def _turns_images(source: Source) -> bool:
    for step in source.cfg.get("pipeline") or ():
        kind = str(step.get("type")) if isinstance(step, dict) else ""
        if kind.endswith("LoadImageFromFile"):
            colours = str(step.get("color_type", "color"))
            backend = step.get("imdecode_backend", "cv2")
            return colours in ("color", "grayscale") and backend in ("cv2", "pillow")
    return True  # mmcv's default


def look_at_files(source: Source, findings: Findings, paths: Sequence[Path]) -> None:
    """Note what a few images hold that is not read, or is read otherwise than stored.

    Args:
        source: Whose images they are.
        findings: Gets the notices.
        paths: Images; those that are missing or unreadable are passed over.
    """
    step = max(1, -(-len(paths) // NUM_LOOKED_AT))
    files = [path for path in paths if path.is_file()]
    for path in files:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            findings.problem(
                source.place,
                f"{path} is no image: {too_large(size)}. Restore or delete it.",
            )
            return
    chosen = files[::step]
    found = look((str(path), partial(_read, path)) for path in chosen)
    for sentence in found.warnings():
        findings.notice(source.place, sentence)
    if found.turned and _turns_images(source):
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
    """Note links by which the toolbox reads images again, which a walk does not.

    One that leads to a folder above itself is a problem: the toolbox would walk there
    in a circle.
    """
    if not (links := walk.account.repeated):
        return
    circles = [link for link in links if _leads_up(os.path.join(walk.root, link))]
    shown_link = shown((circles or links)[0])
    if circles:
        findings.problem(
            source.place,
            f"The link {shown_link} in {walk.root} leads to a folder above itself, "
            "where the toolbox would walk in a circle. Delete it.",
        )
    else:
        findings.notice(
            source.place,
            f"{walk.root} has {len(links)} links to folders that are read anyway "
            f"({shown_link}{', ...' if len(links) > 1 else ''}), whose images the "
            "toolbox reads again. Delete them unless this is meant.",
        )


def _leads_up(link: str) -> bool:
    here, there = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.join(here, "").startswith(os.path.join(there, ""))
