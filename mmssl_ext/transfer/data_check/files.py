"""Lists of images, whether their files are there, and what a pipeline makes of these.

A pipeline reads images upright, in 8 bits, and the first page of a file.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from mmssl_ext.datasets.look import NUM_LOOKED_AT, SECONDS, look
from mmssl_ext.datasets.look_bands import tell_of_bands
from mmssl_ext.datasets.reading import MAX_FILE_BYTES, read_file, too_large
from mmssl_ext.datasets.transforms.decode import FORMATS
from mmssl_ext.datasets.transforms.orientation import orientation_of, upright_size
from mmssl_ext.datasets.walk import ImageWalk
from mmssl_ext.errors import UserError
from mmssl_ext.text import shown

from ..bands import decoder_in
from .source import Fault, Source, missing_path, spread

NUM_FILES = 300  # so many images are looked for one by one, more in lists of folders
HOW = (
    "write the image without EXIF orientation, or read all as they are stored by "
    'LoadImageFromFile(color_type="color_ignore_orientation")'
)


def read_names(source: Source, stripped: bool = True) -> list[str]:
    """Lines of the text file ``ann_file``.

    ``stripped``: the toolbox takes blanks at the ends of a line off.
    """
    path, what = source.ann_file, "The list of images"
    if not path.is_file():
        raise Fault(missing_path(path, "ann_file", what))
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise Fault(f"{what} {path} is not a text file.") from None
    raw = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    lines = [line.strip() for line in raw]
    blank = next((i for i, line in enumerate(lines, 1) if not line), 0)
    faults = {
        "is empty: the split has no images": not any(lines),
        f"has a blank line ({blank}), which is no name": blank > 0,
        "begins with a byte order mark": text.startswith("\ufeff"),
        "has lines that end in a carriage return": any("\r" in x for x in lines),
        "has blanks at the ends of lines": not stripped and raw != lines,
    }
    for fault in (fault for fault, found in faults.items() if found):
        raise Fault(
            f"{what} {path} {fault}. Save a list in plain UTF-8 with a name per line, "
            "or name another one by ann_file."
        )
    return lines


def check_images(source: Source, paths: list[str], what: str, hint: str = "") -> None:
    """Look for the images of a data set, and into a few of them."""
    source.images = paths
    sample = [Path(p) for p in spread(paths, NUM_FILES) if os.path.isfile(p)]
    look_at_files(source, sample)
    check_files(source, paths, what, hint)


def check_files(source: Source, paths: list[str], what: str, hint: str = "") -> bool:
    """Whether there are all files; ``hint`` names a likely cause if there are not."""
    missing, number = missing_files(paths), len(paths)
    if missing:
        count = f"{len(missing)} of" if len(missing) < number else "All"
        source.problem(
            f"{count} {number} {what} do not exist, the first is {missing[0]}. Correct "
            f"data_root, data_prefix or the suffix, or complete the data.{hint}"
        )
    return not missing


def missing_files(paths: Sequence[str]) -> list[str]:
    """Paths without a file; of large sets most are looked up in lists of folders."""

    @functools.cache
    def names(folder: str) -> set[str]:
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()

    missing = [path for path in paths[:NUM_FILES] if not os.path.isfile(path)]
    for path in paths[NUM_FILES:]:
        folder, name = os.path.split(path)
        if name not in names(folder):
            missing.append(path)
    return missing


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image; a fault names the file where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as img:
            yield img
    except Fault:
        raise
    except Exception as error:  # PIL raises almost anything on damaged data
        raise Fault(f"{path} cannot be read: {error}.") from error


def size_as_read(source: Source, path: str | Path) -> tuple[tuple[int, int], int]:
    """Return width and height of an image for the network, from its head alone.

    Returns:
        The size, and the EXIF orientation that the image is turned by; 1 if it is not.
    """
    if (decode := decoder_in(source.cfg.get("pipeline"))) is not None:
        try:
            height, width, _ = decode({"img_path": str(path)})["img"].shape
        except (RuntimeError, UserError) as error:
            raise Fault(str(error)) from error
        return (width, height), 1
    with opened(path) as img:
        if _turns_images(source):
            return upright_size(img), orientation_of(img)
        return img.size, 1


def _turns_images(source: Source) -> bool:
    for step in source.cfg.get("pipeline") or ():
        kind = str(step.get("type")) if isinstance(step, dict) else ""
        if kind.endswith("LoadImageFromFile"):
            colours = str(step.get("color_type", "color"))
            backend = step.get("imdecode_backend", "cv2")
            return colours in ("color", "grayscale") and backend in ("cv2", "pillow")
    return True  # mmcv's default


def look_at_files(source: Source, paths: Sequence[Path]) -> None:
    """Say what a few images hold that is not read, or is read otherwise than stored.

    Args:
        source: Whose images they are.
        paths: Images; those that are missing or unreadable are passed over.
    """
    files = [path for path in paths if path.is_file()]
    for path in files:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            source.problem(
                f"{path} is no image: {too_large(size)}. Restore or delete it."
            )
            return
    chosen = map(str, spread(files, NUM_LOOKED_AT))
    if (decode := decoder_in(source.cfg.get("pipeline"))) is not None:
        images = ((path, partial(_read, path)) for path in chosen)
        tell_of_bands(images, decode, (), SECONDS)
        return
    found = look((path, partial(_read, path)) for path in chosen)
    for sentence in found.warnings():
        source.notice(sentence)
    if found.turned and _turns_images(source):
        source.notice(
            f"{len(found.turned)} of {found.seen} images looked at are turned by their "
            f"EXIF orientation ('{found.turned[0]}'): annotations must belong to the "
            f"upright image. Otherwise {HOW}.",
            logging.INFO,
        )


def _read(path: str) -> bytes:
    return read_file(path)[0]


def note_links(source: Source, walk: ImageWalk) -> None:
    """Say by which links the toolbox reads images again, which a walk does not.

    One that leads to a folder above itself is a problem: the toolbox would walk there
    in a circle.
    """
    links = walk.account.repeated
    circles = [link for link in links if _leads_up(os.path.join(walk.root, link))]
    for link in (circles or links)[:1]:
        fate = "walk in a circle" if circles else "read its images again"
        source.notice(
            f"The link {shown(link)} in {walk.root}, one of {len(links)}, leads to a "
            f"folder that is read anyway: the toolbox would {fate}. Delete it.",
            logging.ERROR if circles else logging.WARNING,
        )


def _leads_up(link: str) -> bool:
    here, there = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    return os.path.join(here, "").startswith(os.path.join(there, ""))
