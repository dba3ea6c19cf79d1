"""A look at a few images that are read as bands: where these stand in the files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mmengine.logging import print_log

from mmssl_ext.errors import UserError
from mmssl_ext.text import shown

from .transforms.bands import DecodeBands
from .transforms.color import ColorJitter, RandomGrayscale
from .transforms.stored import read_bands

_COLOURS = (
    "On bands brightness and contrast act on each, gray and saturation take the mean "
    "of all for gray, and hue is left out, since it needs red, green and blue."
)


def tell_of_bands(
    images: Iterable[tuple[str, Callable[[], bytes]]],
    decode: DecodeBands,
    pipeline: Sequence[Any],
    seconds: float,
) -> None:
    """Log how some images are laid out, and what is done to their colours.

    Those that cannot be read count for none.

    Raises:
        UserError: A package is missing that reads them.
    """
    found: dict[str, list[str]] = {}
    end = time.monotonic() + seconds
    for path, read in images:
        try:
            values, layout = read_bands(read())
        except UserError as error:
            if not isinstance(error, ValueError):  # no fault of the image
                raise
            continue
        except Exception:  # the dataset's `on_error` decides about it
            continue
        found.setdefault(f"{layout}, of {values.dtype}", []).append(path)
        if time.monotonic() > end:
            break
    for layout, paths in found.items():
        print_log(
            f"bands={decode.bands}: {len(paths)} of the images looked at have {layout} "
            f"('{shown(paths[0])}').",
            logger="current",
        )
    if len(found) > 1:
        text = "The images are laid out in different ways, see above; are all meant?"
        print_log(text, logger="current", level=logging.WARNING)
    views = (view for step in pipeline for view in getattr(step, "pipelines", ()))
    if any(isinstance(t, (ColorJitter, RandomGrayscale)) for v in views for t in v):
        print_log(_COLOURS, logger="current")
