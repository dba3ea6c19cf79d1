"""Pages of one file: jinja2 templates, every value escaped, and pictures within them.

A page fetches nothing and runs nothing; its Content-Security-Policy says so to the
browser, whatever a name in it may hold.
"""

from __future__ import annotations

import base64
import datetime
import io
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import write_text
from mmssl_ext.text import printable

TEMPLATES = Path(__file__).with_name("templates")

_WIDTH, _HEIGHT = 1600, 4096  # pixels of an embedded picture, at most
_KINDS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


class PictureError(UserValueError):
    """A picture cannot be shown; the message is a part of a sentence."""


class Picture(NamedTuple):
    """A picture within a page: its ``data:`` address, and its size in pixels."""

    data: str
    width: int
    height: int


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write the page that a file in ``templates/`` makes of ``values``."""
    now = datetime.datetime.now().astimezone()
    made = _environment().get_template(template)
    write_text(path, printable(made.render(contents=[], now=now, **values)))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters["duration"] = duration
    return environment


def open_picture(folder: Path, file: str) -> Image.Image:
    """Read a picture of a folder.

    Raises:
        PictureError: It is elsewhere, no picture, broken, or has more pixels than
            Pillow opens without a warning (89 million).
    """
    if Path(file).name != file:
        raise PictureError("is not in that folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(folder / file) as image:
                image.load()
                return image
    except FileNotFoundError as error:
        raise PictureError("does not exist") from error
    except Exception as error:  # a broken file fails in any of a decoder's ways
        too_large = "DecompressionBomb" in type(error).__name__
        why = "has too many pixels" if too_large else "cannot be read as a picture"
        raise PictureError(why) from error


def embed_file(folder: Path, file: str) -> Picture:
    """Return a picture of a folder for a page; raises as :func:`open_picture` does.

    Beyond 1600 pixels of width or 4096 of height it is made smaller. What is not a
    PNG, JPEG or WebP, or would be smaller as WebP, becomes WebP.
    """
    image = open_picture(folder, file)
    try:
        small = image.convert("RGBA")
    except ValueError as error:  # a kind of pixels that nobody looks at
        raise PictureError("cannot be read as a picture") from error
    small.thumbnail((_WIDTH, _HEIGHT))
    found, kind = embed(small, "WEBP"), _KINDS.get(image.format or "")
    if kind and small.size == image.size:
        data = _address((folder / file).read_bytes(), kind)
        found = min(found, Picture(data, *small.size), key=lambda p: len(p.data))
    return found


def embed(image: Image.Image, kind: str = "JPEG") -> Picture:
    """Return a picture for a page in a format of Pillow's."""
    stream = io.BytesIO()
    image.save(stream, kind, quality=88)
    return Picture(_address(stream.getvalue(), _KINDS[kind]), *image.size)


def _address(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def duration(seconds: float) -> str:
    """Return seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
