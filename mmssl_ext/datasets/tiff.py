"""The bands of a TIFF file, which stand in samples, planes or pages."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np

from mmssl_ext.errors import UserError

from .reading import MAX_FILE_BYTES, NoImageError, too_large

_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF
_ORIENTATION, _WHITE_IS_ZERO = 274, 0
_ROWS, _COLUMNS, _SAMPLES, _CHANNELS = "YXSC"  # tifffile's letters


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as one of TIFF, or of BigTIFF."""
    return data[:4] in _HEADS


def read_tiff(data: bytes) -> tuple[np.ndarray, int, str]:
    """Read the first image of a file, with all of its bands.

    Returns:
        Values as they are stored, H x W x C, the orientation by which they have to be
        turned (1 for none), and a phrase on where the bands stood.

    Raises:
        NoImageError: It is damaged, too large, or has axes in which no bands can be
            told from rows and columns.
        UserError: A package is missing.
    """
    with _library().TiffFile(io.BytesIO(data)) as file:
        image = file.series[0]
        if image.nbytes > MAX_FILE_BYTES:
            raise NoImageError(too_large(image.nbytes))
        page = image.keyframe
        try:
            values = image.asarray()
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise UserError(
                    f"TIFF files in the compression {page.compression.name} need the "
                    "package imagecodecs: pip install imagecodecs, or write the files "
                    "uncompressed or deflated."
                ) from error
            raise
        if values.dtype == bool:  # as of other formats, see read_bands
            values = values * np.uint8(255)
        if page.photometric == _WHITE_IS_ZERO and values.dtype.kind == "u":
            values = np.iinfo(values.dtype).max - values
        tag = page.tags.get(_ORIENTATION)
        values, layout = arrange(values, image.axes)
        if more := len(file.series) - 1:
            layout += f"; {more} further images in the file are left out"
    return values, int(tag.value) if tag is not None else 1, layout


def arrange(values: np.ndarray, axes: str) -> tuple[np.ndarray, str]:
    """Put the bands last.

    Samples and channels are bands, as the file says. Of three axes that it leaves
    unnamed, the shortest is: the first one of bands that were written as pages, the
    last one of an array H x W x C whose rows were.

    Args:
        values: In the file's order.
        axes: A letter for each axis, by tifffile.

    Returns:
        H x W x C, and a phrase on where the bands stood.

    Raises:
        NoImageError: They cannot be told.
    """
    shape = "x".join(map(str, values.shape))
    long = [i for i, n in enumerate(values.shape) if n > 1 or axes[i] in "YX"]
    values = values.reshape([values.shape[i] for i in long])
    axes = "".join(axes[i] for i in long)
    if values.ndim == 2:
        return values[..., None], "one band"
    named = [axis for axis in (_SAMPLES, _CHANNELS) if axis in axes]
    if values.ndim == 3 and named:
        place = axes.index(named[0])
        what = "samples of a pixel" if place == 2 else "planes"
    elif values.ndim == 3 and min(values.shape) < sorted(values.shape)[1]:
        place = int(np.argmin(values.shape))
        what = "pages" if place == 0 else "columns of pages that are rows of the image"
    else:
        place, what = 1, ""
    if place == 1:
        raise NoImageError(
            f"it is a TIFF file of {shape} values, in which bands cannot be told from "
            "rows and columns: write the bands of one image as the samples of one page"
        )
    values = np.moveaxis(values, place, -1)
    return values, f"{values.shape[-1]} bands that are {what}"


def _library() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            'Bands of TIFF files need the package tifffile: pip install "mmssl_ext'
            '[tiff]".'
        ) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are raised, too
    return tifffile
