"""Count the pixels of each class in label maps, by the rules of mmseg's loader."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .files import HOW, opened, size_as_read
from .source import Fault, Source, listed, spread

NUM_MAPS = 24  # of each data set are opened in any case
SECONDS = 1.0  # for more of them, of the data sets of a dataloader
MAX_SECONDS = 8.0  # where a class has not been seen

_GREY = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_LOSSY = ("JPEG", "MPO", "JPEG2000")


Pair = tuple[Source, Path, Path]  # an image and its label map


@dataclass
class Pixels:
    """What the label maps of a dataloader hold.

    Attributes:
        classes: Names of the classes.
        ignore: The label that does not count.
        reduced: 0 is ignored and 1 becomes the first class.
        counts: Pixels of each of the labels 0 to 255 as the loss gets them.
        drawn: The same as the files have them.
        looked: Number of label maps that were opened.
    """

    classes: tuple[str, ...]
    ignore: int
    reduced: bool
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    looked: int = 0

    @property
    def absent(self) -> list[str]:
        """The classes that have no pixel."""
        seen = [bool(n) and i != self.ignore for i, n in enumerate(self.counts)]
        return [name for name, s in zip(self.classes, seen, strict=False) if not s]

    def add(self, source: Source, image: Path, path: Path) -> None:
        """Count a label map.

        Raises:
            Fault: It is none, is not as large as its image, or has a label out of
                range.
        """
        size, drawn = _read(path)
        labels: np.ndarray = np.arange(256)
        if self.reduced:  # 0 is ignored, the others move down
            labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
        known, wanted = source.known_classes, source.classes or ()
        if known and wanted != known:  # mmseg numbers those that are wanted anew
            new = [wanted.index(c) if c in wanted else 255 for c in known]
            labels = np.array([*new, *range(len(new), 256)])[labels]
        self.drawn += drawn
        self.looked += 1
        np.add.at(self.counts, labels, drawn)
        found, number = np.unique(labels[drawn > 0]), len(self.classes)
        wrong = found[(found >= number) & (found != self.ignore)]
        if number and len(wrong):
            raise Fault(
                f"{path} holds the labels {listed(wrong)}"
                f"{' after reduce_zero_label' if self.reduced else ''}, but {number} "
                f"classes have the numbers 0 to {number - 1} and {self.ignore} is "
                "ignored. Correct `classes`, reduce_zero_label or ignore_index, or the "
                f"label maps.{self._hint(path, wrong)}"
            )
        if not os.path.isfile(image):
            return  # said elsewhere
        seen, orientation = size_as_read(source, image)
        if seen != size:
            turned = seen == size[::-1] and orientation > 1
            why = f": EXIF turns it (orientation {orientation}); {HOW}" * turned
            raise Fault(
                f"{path} is {size[0]} x {size[1]} pixels large, but its image "
                f"{image.name} {seen[0]} x {seen[1]}{why}."
            )

    def _hint(self, path: Path, wrong: np.ndarray) -> str:
        if path.name.endswith("_labelIds.png"):
            return (
                " Cityscapes' labelIds have 34 numbers: take the *_labelTrainIds.png, "
                "which cityscapesscripts' createTrainIdLabelImgs writes."
            )
        values = np.flatnonzero(self.drawn)
        if len(values) == 2 and values[0] == 0 and values[1] > 1:
            return f" A mask of 0 and {values[1]} has to hold 1 for {values[1]}."
        if wrong.tolist() == [len(self.classes)] and not self.drawn[0]:
            return (
                " Do they count from 1? reduce_zero_label=True makes 1 the first class."
            )
        return ""


def _read(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    """Width and height, and the pixels of each of the values 0 to 255."""
    with opened(path) as label_map:
        mode, kind = label_map.mode, label_map.format
        size, pixels = label_map.size, np.asarray(label_map)
    if kind in _LOSSY:
        raise Fault(
            f"{path} is a {kind}, whose compression changes class numbers: write label "
            "maps as PNG."
        )
    if mode not in _GREY:
        what = "of floating-point numbers" if mode == "F" else "a colour image"
        equal = mode in ("RGB", "RGBA") and (pixels[..., :1] == pixels[..., 1:3]).all()
        raise Fault(
            f"{path} is {what} ({mode}), but a label map holds one class number per "
            "pixel: an 8-bit grey or palette PNG."
            f"{' Its channels are equal: save one of them.' if equal else ''}"
        )
    if (strange := np.unique(pixels[(pixels < 0) | (pixels > 255)])).size:
        raise Fault(
            f"{path} ({mode}) holds the labels {listed(strange)}, of which mmseg keeps "
            "the last 8 bits. Write label maps of 0 to 255."
        )
    return size, np.bincount(pixels.ravel().astype(np.uint8), minlength=256)


def count_pixels(parts: Sequence[list[Pair]], pixels: Pixels) -> None:
    """Open label maps of all data sets of a dataloader and say what they lack."""
    start = time.monotonic()
    sample = [pair for pairs in parts for pair in spread(pairs, NUM_MAPS)]
    taken = {path for _, _, path in sample}
    rest = [pair for pairs in parts for pair in pairs if pair[2] not in taken]
    random.Random(0).shuffle(rest)  # neighbours are often frames of one film
    for source, image, path in [*sample, *rest]:
        limit = MAX_SECONDS if pixels.absent else SECONDS
        if pixels.looked >= len(sample) and time.monotonic() > start + limit:
            break
        try:
            pixels.add(source, image, path)
        except Fault as fault:
            source.problem(str(fault))
            return
    if pixels.absent:
        _report(sample, pixels, len(sample) + len(rest))


def _report(sample: list[Pair], pixels: Pixels, total: int) -> None:
    """Say which classes have no pixel."""
    (source, _, first), absent, classes = sample[0], pixels.absent, pixels.classes
    complete = pixels.looked == total
    of = "" if complete else f" of {total}"
    maps = f"{pixels.looked}{of} label maps looked at"
    hint, level = "", logging.WARNING
    if pixels.reduced and pixels.drawn[0]:
        hint = " reduce_zero_label=True ignores 0: set it to False if 0 is a class."
    elif pixels.ignore < len(classes):
        hint = f" ignore_index={pixels.ignore} ignores {classes[pixels.ignore]}."
    fate = "never learnt" if source.training else "not scored"
    if len(absent) == len(classes):
        level = source.level
        sentence = (
            f"All pixels of {maps} are ignored ({pixels.ignore}), the first is {first}:"
            f" there is nothing to {'learn' if source.training else 'score'}.{hint}"
        )
    elif np.flatnonzero(pixels.drawn).tolist() == [0, 255] and pixels.ignore == 255:
        level = source.level if complete else level
        sentence = (
            f"The {maps} hold 0 and 255 only, the first is {first}, and 255 is ignored:"
            f" {listed(absent)} is {fate}. Write the class number for 255, as by "
            "np.where(mask > 127, 1, 0).astype(np.uint8)."
        )
    else:
        # A sample may lack rare classes; where it has one class at most, more is wrong.
        if not complete and len(classes) - len(absent) > 1:
            level = logging.INFO
        sentence = (
            f"Not one pixel of {listed(absent, 20)} in {maps}, the first is {first}: "
            f"{fate}.{hint}"
        )
    for part in {id(pair[0]): pair[0] for pair in sample}.values():
        part.notice(sentence, level)
