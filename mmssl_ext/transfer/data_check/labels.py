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
from PIL import Image

from mmssl_ext.datasets.transforms.decode import FORMATS

from .base import Findings, Source, listed, spread
from .images import HOW, size_as_read

NUM_MAPS = 24  # of each data set are opened in any case
SECONDS = 1.0  # for more of them, of the data sets of a dataloader
MAX_SECONDS = 8.0  # where a class has not been seen

_GREY = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_LOSSY = ("JPEG", "MPO", "JPEG2000")

Pair = tuple[Path, Path]  # image and label map


class LabelMapFault(Exception):
    """A label map cannot be used; the message is a sentence."""


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
        total: Number of label maps there are.
    """

    classes: tuple[str, ...]
    ignore: int
    reduced: bool
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    looked: int = 0
    total: int = 0

    @property
    def present(self) -> list[str]:
        """The classes that have pixels."""
        return [
            name
            for i, name in enumerate(self.classes)
            if self.counts[i] and i != self.ignore
        ]

    @property
    def absent(self) -> list[str]:
        """The classes that have none."""
        present = self.present
        return [name for name in self.classes if name not in present]

    def add(self, source: Source, path: Path) -> None:
        """Count a label map.

        Raises:
            LabelMapFault: It is none, or has a label out of range.
        """
        try:
            drawn = _read(path)
        except FileNotFoundError:
            raise
        except Exception as error:  # PIL raises almost anything on damaged data
            if isinstance(error, LabelMapFault):
                raise
            raise LabelMapFault(f"{path} cannot be read: {error}.") from error
        labels: np.ndarray = np.arange(256)
        if self.reduced:  # 0 is ignored, the others move down
            labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
        before = labels.copy()
        for old, new in _label_map(source).items():
            labels[before == old] = new
        self.drawn += drawn
        self.looked += 1
        np.add.at(self.counts, labels, drawn)
        found = np.unique(labels[drawn > 0])
        number = len(self.classes)
        wrong = found[(found >= number) & (found != self.ignore)]
        if number and len(wrong):
            raise LabelMapFault(
                f"{path} holds the labels {listed(wrong)}"
                f"{' after reduce_zero_label' if self.reduced else ''}, but {number} "
                f"classes have the numbers 0 to {number - 1} and {self.ignore} is "
                "ignored. Correct `classes`, reduce_zero_label or ignore_index, or the "
                f"label maps.{self._hint(path, wrong)}"
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


def _label_map(source: Source) -> dict[int, int]:
    """Old class numbers to new ones, where `classes` names a part of the known ones."""
    known = list(getattr(source.cls, "METAINFO", {}).get("classes") or ())
    wanted = list(source.classes or ())
    if not known or wanted == known:
        return {}
    return {i: wanted.index(c) if c in wanted else 255 for i, c in enumerate(known)}


def _read(path: Path) -> np.ndarray:
    """Pixels of each of the values 0 to 255."""
    with Image.open(path, formats=FORMATS) as label_map:
        mode = label_map.mode
        if label_map.format in _LOSSY:
            raise LabelMapFault(
                f"{path} is a {label_map.format}, whose compression changes class "
                "numbers: write label maps as PNG."
            )
        if mode not in _GREY:
            kind = "of floating-point numbers" if mode == "F" else "a colour image"
            hint = ""
            if mode in ("RGB", "RGBA"):
                colours = np.asarray(label_map)
                if (colours[..., :1] == colours[..., 1:3]).all():
                    hint = " Its channels are equal: save one of them."
            raise LabelMapFault(
                f"{path} is {kind} ({mode}), but a label map holds one class number "
                f"per pixel: an 8-bit grey or palette PNG.{hint}"
            )
        pixels = np.asarray(label_map)
    if pixels.dtype in (np.uint8, np.bool_):
        return np.bincount(pixels.ravel().astype(np.uint8), minlength=256)
    values, numbers = np.unique(pixels, return_counts=True)
    if strange := [v for v in values.tolist() if not 0 <= v <= 255]:
        raise LabelMapFault(
            f"{path} ({mode}) holds the labels {listed(strange)}, of which mmseg keeps "
            "the last 8 bits. Write label maps of 0 to 255."
        )
    counts = np.zeros(256, np.int64)
    counts[values.astype(int)] = numbers
    return counts


def check_labels(
    sources: Sequence[tuple[Source, list[Pair]]],
    pixels: Pixels,
    findings: Findings,
) -> None:
    """Open label maps of all data sets of a dataloader and say what they lack.

    Args:
        sources: Each data set with its images and label maps.
        pixels: Receives the counts.
        findings: Receives problems and notices.
    """
    start = time.monotonic()
    pixels.total = sum(len(pairs) for _, pairs in sources)
    rests: list[tuple[Source, list[Pair]]] = []
    for source, pairs in sources:
        sample = spread(pairs, NUM_MAPS)
        for image, path in sample:
            if not (
                _add(source, pixels, findings, path)
                and _check_size(source, findings, image, path)
            ):
                return
        rest = sorted(set(pairs).difference(sample))
        random.Random(0).shuffle(rest)  # neighbours are often frames of one film
        rests.append((source, rest))
    for source, rest in rests:
        for _, path in rest:
            limit = MAX_SECONDS if pixels.absent else SECONDS
            if time.monotonic() > start + limit:
                break
            if not _add(source, pixels, findings, path):
                return
    _report([source for source, _ in sources], pixels, findings, sources[0][1][0][1])


def _add(source: Source, pixels: Pixels, findings: Findings, path: Path) -> bool:
    try:
        pixels.add(source, path)
    except LabelMapFault as fault:
        findings.problem(source.place, str(fault))
        return False
    except FileNotFoundError:
        return True  # said elsewhere
    return True


def _check_size(source: Source, findings: Findings, image: Path, path: Path) -> bool:
    if not os.path.isfile(image):
        return True  # said elsewhere
    with Image.open(path, formats=FORMATS) as label_map:
        size = label_map.size
    seen, orientation = size_as_read(source, image)
    if seen == size:
        return True
    turned = seen == size[::-1] and orientation > 1
    why = f": EXIF turns it (orientation {orientation}); {HOW}" if turned else ""
    findings.problem(
        source.place,
        f"{path} is {size[0]} x {size[1]} pixels large, but its image "
        f"{image.name} {seen[0]} x {seen[1]}{why}.",
    )
    return False


def _report(
    sources: list[Source], pixels: Pixels, findings: Findings, first: Path
) -> None:
    place = ", ".join(source.place for source in sources)
    training = sources[0].training
    complete = pixels.looked >= pixels.total
    maps = f"{pixels.looked} label maps looked at"
    if not complete:
        maps = f"{pixels.looked} of {pixels.total} label maps looked at"
    fate = "never be learnt" if training else "not be scored"
    values = np.flatnonzero(pixels.drawn).tolist()
    hint = ""
    if pixels.reduced and pixels.drawn[0]:
        hint = " reduce_zero_label=True ignores 0: set it to False if 0 is a class."
    elif pixels.ignore < len(pixels.classes):
        hint = f" ignore_index={pixels.ignore} ignores {pixels.classes[pixels.ignore]}."
    if not pixels.present:
        sentence = (
            f"All pixels of {maps} are ignored ({pixels.ignore}), the first is {first}:"
            f" there is nothing to {'learn' if training else 'score'}.{hint}"
        )
        (findings.problem if training else findings.notice)(place, sentence)
    elif values == [0, 255] and pixels.ignore == 255 and len(pixels.classes) > 1:
        sentence = (
            f"The {maps} hold 0 and 255 only, the first is {first}, and 255 is ignored:"
            f" {listed(pixels.absent)} would {fate}. Write the class number for 255, "
            "as by np.where(mask > 127, 1, 0).astype(np.uint8)."
        )
        refuse = training and complete
        (findings.problem if refuse else findings.notice)(place, sentence)
    elif pixels.absent:
        # A sample may lack rare classes; where it has one class at most, more is wrong.
        sure = complete or len(pixels.present) < 2
        findings.notice(
            place,
            f"Not one pixel of {listed(pixels.absent, 20)} in {maps}, the first is "
            f"{first}: {'never learnt' if training else 'not scored'}.{hint}",
            logging.WARNING if sure else logging.INFO,
        )
