"""Decoding of images with any number of bands and any depth, without clipping."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import get_worker_info

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.registry import TRANSFORMS

from ..reading import NoImageError, read_file
from .decode import UnreadableImageError, reason_of
from .placing import COLOURS, LIBRARIES
from .stored import bands_of, read_bands

Bands = int | Sequence[int]
_FULL = {"uint8": 255.0, "uint16": 65535.0}  # types that have a range of their own
_KINDS = "uif"  # numpy's letters of whole numbers and floats


@TRANSFORMS.register_module()
class DecodeBands:
    """Decode to bands in float32, in units of 0 to 255, in place of ``DecodeImage``.

    ``results["img"]`` becomes float32 H x W x C, upright. ``value_range`` says which
    values of the file are 0 and 255; what lies beyond is not clipped, and nothing is
    rounded. It is read from ``results["img"]`` (an array H x W or H x W x C of a file's
    values, or a PIL image), ``results["img_bytes"]`` or the file
    ``results["img_path"]``, like by :class:`DecodeImage`.

    The transforms of this package take such images: crops, flips, blur and solarisation
    act on each band, brightness and contrast too, gray is the mean of the bands and
    saturation the distance from it, and hue, which needs red, green and blue, is left
    out.

    Args:
        bands: How many bands an image must have, or which are taken, counted from 0
            and in this order; one may occur several times.
        value_range: (low, high), for all bands or a pair for each. None takes the whole
            range of types that have one: 0 to 255 of uint8, 0 to 65535 of uint16.

    Raises:
        UserValueError: ``bands`` or ``value_range`` is none, or a type has no range of
            its own.
        UserError: The package that reads TIFF files is missing.
        UnreadableImageError: As by :class:`DecodeImage`; also for other numbers of
            bands, and values that are not finite.
    """

    keeps_box = True  # of the upright image, which it makes before anything is cut

    def __init__(self, bands: Bands, value_range: Any = None) -> None:
        self.bands = check_bands(bands)
        self.count = count_of(self.bands)
        self.value_range = check_value_range(value_range, self.count)

    def __call__(self, results: dict) -> dict:
        """Replace or add ``results["img"]``."""
        if get_worker_info() is not None:  # a worker has one core
            cv2.setNumThreads(0)
        results["img"] = self.scaled(self.stored(results))
        return results

    def stored(self, results: dict) -> np.ndarray:
        """The chosen bands as they are stored, H x W x C.

        Raises:
            UserError: As the class does.
        """
        try:
            return self._chosen(_all_bands(results))
        except (MemoryError, UserError) as error:
            if not isinstance(error, NoImageError):
                raise
            reason = str(error)
        except Exception as error:  # decoders raise almost anything on damaged data
            reason = reason_of(error)
        raise UnreadableImageError(results.get("img_path", "in memory"), reason)

    def _chosen(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind not in _KINDS:
            raise NoImageError(f"its values are of the type {values.dtype}")
        found = values.shape[-1]
        if isinstance(self.bands, int):
            if found != self.bands:
                raise NoImageError(
                    f"it has {_counted(found)}, not the {self.bands} of bands="
                    f"{self.bands}"
                )
        elif max(self.bands) >= found:
            raise NoImageError(
                f"it has {_counted(found)}, and bands={self.bands} counts from 0"
            )
        else:
            values = values[..., list(self.bands)]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise NoImageError(
                "it has values that are no finite numbers (NaN): write a number in "
                "their place"
            )
        return values

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Stored values in units of 0 to 255: float32 H x W x C."""
        low, high = range_for(values.dtype, self.value_range)
        # Whole numbers of 16 bits are exact in float32.
        work = np.float32 if values.dtype.itemsize < 3 else np.float64
        out: np.ndarray = values.astype(work)
        out -= low.astype(work)
        out *= (255 / (high - low)).astype(work)
        return np.ascontiguousarray(out, np.float32)


def check_bands(bands: Any) -> int | tuple[int, ...]:
    """Return a number of bands, or which they are, as a tuple.

    Raises:
        UserValueError: It is neither.
    """
    if type(bands) is int and bands > 0:
        return bands
    several = isinstance(bands, Sequence) and not isinstance(bands, str)
    if several and bands and all(type(x) is int and x >= 0 for x in bands):
        return tuple(bands)
    raise UserValueError(
        f"bands={bands!r} must be the number of bands, or a list of those to take, "
        "counted from 0: bands=5, bands=[3, 2, 1]."
    )


def count_of(bands: Bands) -> int:
    """How many bands are read."""
    return bands if isinstance(bands, int) else len(bands)


def check_value_range(given: Any, count: int) -> np.ndarray | None:
    """Return lowest and highest value as an array 2 x C, or None.

    Raises:
        UserValueError: It is no such pair, nor one for each of ``count`` bands.
    """
    if given is None:
        return None
    try:
        pairs = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        pairs = np.empty(0)
    fits = pairs.shape in ((2,), (count, 2)) and np.isfinite(pairs).all()
    if not fits or not (pairs[..., 0] < pairs[..., 1]).all():
        raise UserValueError(
            f"value_range={given!r} must be (low, high), the values that become 0 and "
            f"255, for all bands or a pair for each of the {count}."
        )
    return np.ascontiguousarray(np.broadcast_to(pairs, (count, 2)).T)


def range_for(kind: np.dtype, given: np.ndarray | None) -> np.ndarray:
    """Lowest and highest value, 2 x C or 2 x 1, of values of a type.

    Raises:
        UserValueError: None is given, and the type has none of its own.
    """
    if given is not None:
        return given
    if kind.name not in _FULL:
        raise UserValueError(
            f"Values of the type {kind.name} have no range of their own: set "
            "value_range=(low, high), the values that become 0 and 255; `mmssl-ext "
            "stats FOLDER` prints what the images hold."
        )
    return np.array([[0.0], [_FULL[kind.name]]])


def decoders(pipeline: Sequence[Any]) -> Iterator[DecodeBands]:
    """The transforms of a built pipeline that decode bands."""
    return (step for step in pipeline if isinstance(step, DecodeBands))


def check_no_rgb(steps: Sequence[Any]) -> None:
    """Refuse transforms of other libraries that change colours, on bands.

    Args:
        steps: Built transforms; those of views are looked into.

    Raises:
        UserValueError: There is one.
    """
    for step in steps:
        for view in getattr(step, "pipelines", ()):
            check_no_rgb(view)
        inner = type(getattr(step, "t", step))  # "t": torchvision's, wrapped
        library = inner.__module__.partition(".")[0]
        if library in LIBRARIES and inner.__name__ in COLOURS:
            raise UserValueError(
                f"The {inner.__name__} of {library} needs images in 8-bit RGB, and "
                "DecodeBands makes bands in float32: take mmssl_ext's ColorJitter, "
                "RandomGrayscale, RandomSolarize or GaussianBlur, or leave it out."
            )


def _all_bands(results: dict) -> np.ndarray:
    source = results.get("img")
    if isinstance(source, np.ndarray):
        return source[..., None] if source.ndim == 2 else source
    if isinstance(source, Image.Image):
        return bands_of(source)
    if "img_bytes" in results:
        return read_bands(results["img_bytes"])[0]
    return read_bands(read_file(os.fspath(results["img_path"]))[0])[0]


def _counted(number: int) -> str:
    return "1 band" if number == 1 else f"{number} bands"
