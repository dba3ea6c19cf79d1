"""Mean, deviation and range of the bands of a folder of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmssl_ext.datasets import DecodeBands, DecodeImage, SSLDataset
from mmssl_ext.datasets.reading import read_file
from mmssl_ext.datasets.tiff import is_tiff
from mmssl_ext.datasets.transforms.bands import (
    Bands,
    check_bands,
    check_value_range,
    count_of,
    range_for,
)
from mmssl_ext.datasets.transforms.stored import read_bands
from mmssl_ext.errors import UserError, UserValueError

from .images import check_count, open_images, path_of, read_images
from .settings import Setting

__all__ = ["ImageStats", "stats"]

PERCENTILES = (1.0, 99.0)
_LOOKED_AT = 16  # images, by which it is decided how all are read
_SAMPLE = 1 << 18  # pixels of all images together, for the percentiles
_MOST, _FEWEST = 2048, 16  # of them from one image
_BATCH = 16  # images
_MEASURED = 500  # images of a pretraining
_CHUNK = 1 << 18  # pixels of an image that are summed at once


@dataclass(frozen=True)
class ImageStats:
    """What :func:`stats` returns; lists have a value for each band that is read.

    Attributes:
        images: How many were read.
        bands: What ``DecodeBands`` is told; None for 8-bit RGB.
        value_range: Likewise: (low, high) of each band, None for the type's whole one.
        mean: In units of 0 to 255, in which ``value_range`` puts the values.
        std: Likewise.
        kind: Type of the values in the files, such as ``uint16``.
        lowest: Of the values in the files.
        highest: Likewise.
        percentiles: Which ones, and their values for each band.
        short_side: Of an image in pixels, the median.
        unreadable: Path of each other image, and why it cannot be read.
    """

    images: int
    bands: int | tuple[int, ...] | None
    value_range: list[tuple[float, float]] | None
    mean: list[float]
    std: list[float]
    kind: str
    lowest: list[float]
    highest: list[float]
    percentiles: list[tuple[float, list[float]]]
    short_side: int
    unreadable: list[tuple[str, str]]

    def config(self) -> str:
        """Variables of a config, of pretraining and of transfer alike."""
        lines: dict[str, Any] = {} if self.bands is None else {"bands": self.bands}
        lines |= {"value_range": self.value_range} if self.value_range else {}
        lines |= {"mean": self.mean, "std": self.std}
        return "\n".join(f"{name} = {value!r}" for name, value in lines.items())

    def table(self) -> str:
        """A row for each band: the files' values; mean and deviation of 0 to 255."""
        which = range(len(self.mean)) if isinstance(self.bands, int) else self.bands
        names = "RGB" if self.bands is None else [str(number) for number in which or ()]
        columns = {"lowest": self.lowest}
        columns |= {f"{p:g} %": values for p, values in self.percentiles}
        columns |= {"highest": self.highest, "mean": self.mean, "std": self.std}
        head = "band" + "".join(f"{name:>12}" for name in columns)
        rows = zip(names, *columns.values(), strict=True)
        return "\n".join(
            [head, *(f"{n:<4}" + "".join(f"{x:>12.6g}" for x in r) for n, *r in rows)]
        )


def stats(
    data: str | os.PathLike[str],
    bands: Bands | None = None,
    value_range: Any = None,
    percentile: Sequence[float] | None = None,
    max_images: int | None = None,
    workers: int | None = None,
) -> ImageStats:
    """Measure the bands of many images, as ``DecodeBands`` will read them.

    Images are read and dropped batch by batch; of each a few pixels are kept for the
    percentiles, some 260,000 of all together. What cannot be read is listed.

    Args:
        data: As for :func:`embed`.
        bands: As for ``DecodeBands``; None for 8-bit RGB where the first images are
            such or gray, else for all of the bands that most of them have.
        value_range: (low, high), the values that become 0 and 255, for all bands or a
            pair for each.
        percentile: Two percentiles of the values of each band in place of it. None, and
            no ``value_range`` either, takes the whole range of 8-bit images and the 1st
            and 99th percentile of others.
        max_images: Read only so many, evenly spread.
        workers: Processes that read images; None chooses.

    Raises:
        UserError: An option cannot be used, no image can be read, or their values are
            of different types.
        FileNotFoundError: There is no such data.
    """
    if max_images is not None:
        check_count("max_images", max_images, 1)
    if workers is not None:
        check_count("workers", workers, 0)
    ends = _checked(percentile, value_range)
    dataset = _Chosen(open_images(data).dataset, max_images)
    bands = _usual_bands(dataset) if bands is None else check_bands(bands)
    count = 3 if bands is None else count_of(bands)
    found = _Sums(count, len(dataset))
    unreadable: list[tuple[str, str]] = []
    view = _View(bands, count, found.each)
    for batch in read_images(dataset, view, _BATCH, workers, "Measured"):
        unreadable += [(path_of(dataset, row), why) for row, why in batch.failed]
        for row, values in zip(batch.rows, batch.values, strict=False):
            found.add(row, values.numpy())
    given = check_value_range(value_range, count)
    return _result(found, bands, given, ends, unreadable)


def _checked(percentile: Any, value_range: Any) -> tuple[float, float] | None:
    if percentile is None:
        return None
    if value_range is not None:
        raise UserValueError("Give value_range or percentile, not both.")
    try:
        ends = tuple(map(float, percentile))
    except (TypeError, ValueError):
        ends = ()
    if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 100:
        raise UserValueError(
            f"percentile={percentile!r} must be two of 0 to 100, such as (1, 99)."
        )
    return ends[0], ends[1]


def _usual_bands(dataset: SSLDataset) -> int | None:
    """How the first images are read: None for 8-bit RGB or gray, else their bands."""
    counts: Counter[int | None] = Counter()
    for row in range(min(_LOOKED_AT, len(dataset))):
        try:
            told = dataset.describe(row) | dataset.read(row)
            data = told.get("img_bytes") or read_file(told["img_path"])[0]
            values, _ = read_bands(data)
        except UserError as error:
            if not isinstance(error, ValueError):  # a package is missing
                raise
            continue
        except Exception:  # listed when all are read
            continue
        number = values.shape[-1]
        usual = values.dtype == np.uint8 and (number in (1, 3) or not is_tiff(data))
        counts[None if usual else number] += 1
    return counts.most_common(1)[0][0] if counts else None


class _Chosen(SSLDataset):
    """So many images of a dataset, evenly spread; None for all."""

    def __init__(self, whole: SSLDataset, most: int | None) -> None:
        super().__init__(min(most or len(whole), len(whole)))
        self._whole = whole

    def describe(self, row: int) -> dict[str, Any]:
        return self._whole.describe(self._place(row))

    def read(self, row: int) -> dict[str, Any]:
        return self._whole.read(self._place(row))

    def _place(self, row: int) -> int:
        return row * len(self._whole) // len(self)


@dataclass(frozen=True)
class _View:
    """What is kept of an image: size, type, moments and some pixels, in float64."""

    bands: int | tuple[int, ...] | None
    count: int
    each: int

    def __call__(self, told: dict[str, Any]) -> Tensor:
        if self.bands is None:
            values = DecodeImage()(told)["img"]
        else:
            values = DecodeBands(self.bands).stored(told)
        height, width, _ = values.shape
        pixels = values.reshape(-1, self.count)
        chosen = np.random.default_rng(0).integers(len(pixels), size=self.each)
        moments = _Moments(self.count)
        for start in range(0, len(pixels), _CHUNK):
            part = pixels[start : start + _CHUNK].astype(np.float64)
            moments.add(len(part), part.mean(0), part.var(0) * len(part))
        parts = (
            [len(pixels), min(height, width), ord(values.dtype.char)],
            moments.mean,
            moments.squares,
            pixels.min(0),
            pixels.max(0),
            pixels[chosen].ravel(),
        )
        return torch.from_numpy(np.concatenate(parts).astype(np.float64))


class _Moments:
    """Mean and squared differences from it, over parts: the formula of Chan et al."""

    def __init__(self, count: int) -> None:
        self.pixels, self.mean, self.squares = 0.0, np.zeros(count), np.zeros(count)

    def add(self, number: float, mean: np.ndarray, squares: np.ndarray) -> None:
        """Add a part, of so many pixels."""
        total, step = self.pixels + number, mean - self.mean
        self.mean += step * (number / total)
        self.squares += squares + step**2 * (self.pixels * number / total)
        self.pixels = total


class _Sums:
    """What is known of the images so far, and a sample of their pixels."""

    def __init__(self, count: int, images: int) -> None:
        self.each = int(np.clip(_SAMPLE // max(images, 1), _FEWEST, _MOST))
        self._every = max(1, images * self.each // _SAMPLE)  # image gives pixels
        self.moments = _Moments(count)
        self.lowest, self.highest = np.full(count, np.inf), np.full(count, -np.inf)
        self.kinds: Counter[str] = Counter()
        self.sides: list[int] = []
        self.sample: list[np.ndarray] = []

    def add(self, row: int, values: np.ndarray) -> None:
        """Add what :class:`_View` made of an image."""
        (number, side, kind), rest = values[:3], values[3:]
        count = len(self.lowest)
        mean, squares, low, high = rest[: 4 * count].reshape(4, count)
        self.moments.add(number, mean, squares)
        self.lowest = np.minimum(self.lowest, low)
        self.highest = np.maximum(self.highest, high)
        self.kinds[np.dtype(chr(int(kind))).name] += 1
        self.sides.append(int(side))
        if row % self._every == 0:
            self.sample.append(rest[4 * count :].reshape(-1, count))


def _result(
    found: _Sums,
    bands: int | tuple[int, ...] | None,
    given: np.ndarray | None,
    ends: tuple[float, float] | None,
    unreadable: list[tuple[str, str]],
) -> ImageStats:
    if len(found.kinds) > 1 and given is None:
        kinds = " and ".join(f"{n} of {kind}" for kind, n in found.kinds.items())
        raise UserError(
            f"The images have values of different types ({kinds}), which need one "
            "value_range that suits all; set it, or keep them apart."
        )
    kind = np.dtype(found.kinds.most_common(1)[0][0])
    shares = ends or PERCENTILES
    moments = found.moments
    sample = np.concatenate(found.sample or [moments.mean[None]])
    values = np.percentile(sample, shares, axis=0)  # 2 x C
    if given is None and bands is not None and (ends or kind != np.uint8):
        given = np.where(values[0] < values[1], values, [found.lowest, found.highest])
        given[1] += given[0] == given[1]  # a band that is the same everywhere
        given = _plain(given)
    low, high = range_for(kind, given)
    unit = 255 / (high - low)
    std = np.sqrt(moments.squares / moments.pixels) * unit
    return ImageStats(
        images=len(found.sides),
        bands=bands,
        value_range=None if given is None else list(map(tuple, given.T.tolist())),
        mean=_plain((moments.mean - low) * unit).tolist(),
        std=_plain(std).tolist(),
        kind=kind.name,
        lowest=_plain(found.lowest).tolist(),
        highest=_plain(found.highest).tolist(),
        percentiles=list(zip(shares, _plain(values).tolist(), strict=True)),
        short_side=int(np.median(found.sides)),
        unreadable=unreadable,
    )


def _plain(values: np.ndarray) -> np.ndarray:
    """Six digits, as they are written in configs."""
    return np.vectorize(lambda x: float(f"{x:.6g}"))(values)


def measure(
    data: str | os.PathLike[str], bands: Any, value_range: Any
) -> tuple[list[Setting], int | None]:
    """How bands are read: variables of a config, and the images' short side.

    Nothing where they are read as RGB.

    Raises:
        UserError: They cannot be measured, or one is the same everywhere.
    """
    if bands is None:
        if value_range is not None:
            raise UserValueError(
                "value_range is for images that are read as bands; set bands, too."
            )
        return [], None
    found = stats(data, bands, value_range, max_images=_MEASURED)
    flat = [i for i, std in enumerate(found.std) if not std > 0]
    if flat:
        raise UserValueError(
            f"Of the bands that are read, number {flat[0]} (from 0) is the same "
            f"everywhere in {found.images} images; leave it out by bands=[...]."
        )
    ends = " and ".join(f"{p:g} %" for p, _ in found.percentiles)
    ranged = "as told" if value_range is not None else f"{ends} of the values"
    if found.value_range is None:
        ranged = f"all values of {found.kind}"
    units = f"of {found.images} images, in units of 0 to 255"
    return [
        Setting("bands", found.bands, "as told"),
        Setting("value_range", found.value_range, f"{ranged}: 0 and 255"),
        Setting("mean", found.mean, units),
        Setting("std", found.std, units),
    ], found.short_side
