"""A look at a few images of a set: is there more in them than will be read?

What is read of an image is 8-bit RGB of its first page, unless ``bands`` says more.
Here is found what that leaves out, or turns black, without a word of the decoder.
"""

from __future__ import annotations

import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from mmengine.logging import print_log
from PIL import Image

from mmssl_ext.text import shown

from .base import SSLDataset
from .look_bands import tell_of_bands
from .reading import read_file
from .transforms.bands import decoders
from .transforms.decode import FORMATS, to_rgb
from .transforms.orientation import orientation_of

NUM_LOOKED_AT = 16  # images, evenly spread over the set
SECONDS = 2.0  # for all of them
_DARK = 0.1  # of the range of the depth; a sound image uses more
_SMALL = (256, 256)  # JPEG is decoded at about this size only
_KIND, _BANDS = 254, 277  # tags of TIFF: kind of a page, samples per pixel
_NO_PAGE = 1 | 4  # a smaller version of another page, or its mask
_PAGES = 10  # that are looked at
_WAYS_OUT = {
    16: "Set value_range and bands, for gray 12-bit values value_range=[0, 4095] and "
    'bands=[0, 0, 0] ("Bands" in docs/own_images.md).',
    8: "Stretch them once, or look whether they are label maps.",
}
_Reader = Callable[[], bytes]


_DARK_SENTENCE = (
    "use less than a tenth of the range of their {} bits (the largest value of '{}' is "
    "{}), so they are almost black for the network. {}"
)
_PAGES_SENTENCE = (
    "have further pages or frames ('{}'), of which only the first is read. Write those "
    "to be used to files of their own."
)
_BANDS_SENTENCE = (
    "have more bands ('{}') than the three (gray: one) that are read: transparency, or "
    "channels such as infrared, are dropped; `bands` takes them."
)


@dataclass
class Found:
    """What a look has found; each list names the images it holds for."""

    seen: int = 0  # images that could be opened
    depths: Counter[int] = field(default_factory=Counter)  # by bits per value, 8 or 16
    #: Those that use little of their range: depth, path, largest value.
    dark: list[tuple[int, str, str]] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)  # with further pages or frames
    bands: list[str] = field(default_factory=list)  # with a further one that matters
    turned: list[str] = field(default_factory=list)  # by their EXIF orientation

    def warnings(self) -> list[str]:
        """A sentence for each thing that is not read as it may be meant."""
        said = []
        for depth, count in self.depths.items():
            dark = [(path, top) for bits, path, top in self.dark if bits == depth]
            if dark and 2 * len(dark) >= count:  # else some frames are dark
                of = depth, shown(dark[0][0]), dark[0][1], _WAYS_OUT[depth]
                said.append((len(dark), _DARK_SENTENCE.format(*of)))
        for names, text in (self.pages, _PAGES_SENTENCE), (self.bands, _BANDS_SENTENCE):
            if names:
                said.append((len(names), text.format(shown(names[0]))))
        return [f"{n} of {self.seen} images looked at {rest}" for n, rest in said]

    def add(self, path: str, data: bytes) -> None:
        """Look at an image.

        Raises:
            Exception: Of any kind, where it cannot be decoded.
        """
        with Image.open(io.BytesIO(data), formats=FORMATS) as img:
            turned = orientation_of(img) > 1
            # PIL keeps 16 bits of gray only; its decoder's layout names other ones.
            deep = img.mode.startswith("I") or ";16" in str(getattr(img, "tile", ""))
            img.draft("RGB", _SMALL)
            img.load()
            is_gray16 = img.mode.startswith("I")
            top = int(np.asarray(img if is_gray16 else to_rgb(img)).max())
            limit = 65535 if is_gray16 else 255
            dropped, more = _drops_a_band(img), _has_more_pages(img)
        depth = 16 if deep else 8
        self.seen += 1
        self.depths[depth] += 1
        self.dark += [(depth, path, f"{top:,} of {limit:,}")] * (top < _DARK * limit)
        self.pages += [path] * more
        self.bands += [path] * dropped
        self.turned += [path] * turned


def look(images: Iterable[tuple[str, _Reader]]) -> Found:
    """Look at images, by path and reader, until the time is over or none is left.

    Those that cannot be read count for none.
    """
    found, end = Found(), time.monotonic() + SECONDS
    for path, read in images:
        try:
            found.add(path, read())
        except Exception:  # the dataset's `on_error` decides about it
            continue
        if time.monotonic() > end:
            break
    return found


def look_at_dataset(dataset: SSLDataset) -> Found:
    """Look at some images of a set; at none that it holds in memory."""
    return look(_sample(dataset))


def warn_of_unread(dataset: object) -> None:
    """Log what a look at the sets of this package has found, also within wrappers."""
    if isinstance(dataset, SSLDataset):
        if (decode := next(decoders(dataset.pipeline), None)) is not None:
            tell_of_bands(_sample(dataset), decode, dataset.pipeline, SECONDS)
            return
        for sentence in look_at_dataset(dataset).warnings():
            print_log(sentence, logger="current", level=logging.WARNING)
        return
    for part in (getattr(dataset, "dataset", None), *getattr(dataset, "datasets", ())):
        if part is not None:
            warn_of_unread(part)


def _sample(dataset: SSLDataset) -> Iterator[tuple[str, _Reader]]:
    count = min(NUM_LOOKED_AT, len(dataset))
    for index in (np.arange(count) * len(dataset) // max(count, 1)).tolist():
        info = dataset.get_data_info(index)
        if "img" not in info and "img_path" in info:
            yield info["img_path"], partial(_read, dataset, index, info["img_path"])


def _read(dataset: SSLDataset, index: int, path: str) -> bytes:
    inside = dataset.read(int(dataset._rows[index]))  # of a shard
    return inside["img_bytes"] if inside else read_file(path)[0]


def _drops_a_band(img: Image.Image) -> bool:
    if img.mode in ("RGBA", "RGBa", "LA", "La"):
        return bool(np.asarray(img.getchannel(len(img.getbands()) - 1)).min() < 255)
    tags = getattr(img, "tag_v2", None)
    is_rgb = img.mode in ("RGB", "RGBX")
    return is_rgb and tags is not None and tags.get(_BANDS, 3) > 3


def _has_more_pages(img: Image.Image) -> bool:
    if img.format in ("JPEG", "MPO"):  # telephones put a map of the brightness there
        return False
    for page in range(1, _PAGES):
        try:
            img.seek(page)
        except EOFError:
            return False
        if not getattr(img, "tag_v2", {}).get(_KIND, 0) & _NO_PAGE:
            return True
    return False
