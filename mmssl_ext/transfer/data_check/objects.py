"""Count the objects that mmdet trains on and scores, by the rules of its loaders."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .files import size_as_read
from .source import Fault, Source, listed, spread

# Why an annotation is no object to train on -> what is said of those, what to do.
CAUSES = {
    "stray": (
        "belong to an image that it does not list",
        "Let 'image_id' be the 'id' of an image, of the same type.",
    ),
    "unknown": (
        "have a category_id that 'categories' does not list",
        "Let 'category_id' be the 'id' of a category, of the same type.",
    ),
    "other": (
        "are of a category that is not in `classes`",
        "Check ann_file and the variable `classes`.",
    ),
    "ignored": ("are marked by 'ignore'", "Set 'ignore' to 0."),
    "outside": (
        "lie outside of their image",
        "A box is [x, y, width, height] in pixels, from the upper left corner; so are "
        "'width' and 'height' of the image.",
    ),
    "area": ("have an area of 0 or below", "Write the true 'area' in pixels."),
    "small": (
        "are less than one pixel wide or high",
        "A box is [x, y, width, height] in pixels: multiply relative ones by the size "
        "of the image.",
    ),
    "relative": (
        "lie within the first pixel",
        "The corners of a bndbox are pixels: multiply relative ones by the size of the "
        "image.",
    ),
    "mask": (
        "have no usable mask",
        "A polygon has three points or more, each of x and y.",
    ),
    "crowd": (
        "have iscrowd=1, which marks regions that are neither learnt nor scored",
        "Set 'iscrowd' to 0 for single objects.",
    ),
    "difficult": ("are marked difficult", "Set <difficult> to 0."),
}
_ELSEWHERE = ["stray", "unknown", "other"]  # no object of these images and classes
_MARKED = {"crowd", "difficult"}  # usual, but a mistake where most objects are
_NUM_SIZES = 100  # images whose heads are read


@dataclass
class Objects:
    """The N annotations in a data set of M images, and what becomes of them.

    Attributes:
        source: The data set.
        file: What was read, for the sentences.
        classes: Names of the classes.
        paths: Of the M images.
        sizes: M x 2, widths and heights as stated; 0 where they are not.
        image: N, the number of the image; -1 for none.
        names: N, the classes.
        boxes: N x 4, corners x1, y1, x2, y2.
        example: Text on an annotation, given its number.
        slack: So many pixels may a box begin before the image.
        complete: The whole data set was read, not a sample.
        cause: N, why an annotation is no object; "" where it is one.
    """

    source: Source
    file: str
    classes: tuple[str, ...]
    paths: list[str]
    sizes: np.ndarray
    image: np.ndarray
    names: Sequence[str | None]
    boxes: np.ndarray
    example: Callable[[int], str]
    slack: int = 0
    complete: bool = True
    cause: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.cause = np.full(len(self.names), "", "U9")

    def leave_out(self, cause: str, wrong: np.ndarray) -> None:
        """Mark annotations (N) as no objects, unless they are marked already."""
        self.cause[wrong & (self.cause == "")] = cause

    @property
    def counts(self) -> Counter[str | None]:
        """Number of objects of each class."""
        return Counter(np.array(self.names, object)[self.cause == ""].tolist())

    @property
    def used(self) -> np.ndarray:
        """N, whether an annotation is of one of the images and classes."""
        return ~np.isin(self.cause, _ELSEWHERE)

    @property
    def beyond(self) -> np.ndarray:
        """N, whether an object leaves its image in part, or has no area."""
        x1, y1, x2, y2 = self.boxes.T
        width, height = self.sizes[self.image].T
        # One pixel beyond the border comes from counting from 1, or from rounding.
        leaves = (width != 0) & ((x2 > width + 1) | (y2 > height + 1))
        leaves |= (np.minimum(x1, y1) < -self.slack) | (x2 <= x1) | (y2 <= y1)
        return leaves & np.isin(self.cause, ["", "difficult"])

    def told(self) -> str:
        """Why annotations are no objects, the most frequent cause first."""
        counts = Counter(self.cause[self.cause != ""].tolist())
        return ", ".join(
            f"{n} {CAUSES[cause][0]} (the first: {self._first(self.cause == cause)})"
            for cause, n in counts.most_common()
        )

    def _first(self, chosen: np.ndarray) -> str:
        return self.example(int(chosen.argmax()))

    def report(self) -> None:
        """Say that there is no object at all, or how many are lost."""
        source, file, total = self.source, self.file, len(self.names)
        objects = self.cause == ""
        counts = Counter(self.cause[~objects].tolist())
        if not objects.any():
            why = f", so nothing can be {source.verb}. {CAUSES['other'][1]}"
            if counts:
                advice = " ".join(
                    CAUSES[cause][1] for cause, _ in counts.most_common(2)
                )
                why = f" that can be {source.verb}: of {total} annotations "
                why += f"{self.told()}. {advice}"
            source.notice(
                f"No image in {file} has a box of any class in `classes`{why}",
                source.level,
            )
            return
        if empty := len(self.paths) - len(np.unique(self.image[objects])):
            filters = (source.training and source.cfg.get("filter_cfg")) or {}
            fate = ""
            if filters.get("filter_empty_gt"):
                fate = " Those without any annotation are left out (filter_empty_gt)."
            number = len(self.paths)
            source.notice(
                f"{empty} of {number} images in {file} have no box.{fate}", logging.INFO
            )
        if counts.keys() - {"other"}:  # has been said with the classes
            usual = counts.keys() <= _MARKED and 2 * counts.total() < self.used.sum()
            source.notice(
                f"{counts.total()} of {total} annotations in {file} are not "
                f"{source.verb}: {self.told()}.",
                logging.INFO if usual else logging.WARNING,
            )
        if (beyond := self.beyond).any():
            source.notice(
                f"{beyond.sum()} boxes in {file} leave their image in part, or have no "
                f"area; the first: {self._first(beyond)}."
            )

    def check_sizes(self, exact: bool = False) -> None:
        """Say which images are not as large as the annotations state.

        Boxes that lie within the stated size do not belong to an image of another size,
        as where it was shrunk, or turned by EXIF, after annotation: a problem. Where
        only the stated size is wrong, it is a notice.

        Args:
            exact: A difference of one pixel counts.
        """
        wrong: list[str] = []
        looked, boxes, annotates_file = 0, 0, False
        owner = np.where(self.used, self.image, -1)
        for number in spread(np.flatnonzero(self.sizes.all(1)).tolist(), _NUM_SIZES):
            path, size = self.paths[number], self.sizes[number]
            if not os.path.isfile(path):
                continue  # said elsewhere
            try:
                seen, _ = size_as_read(self.source, path)
            except Fault as fault:
                self.source.problem(str(fault))
                continue
            looked += 1
            if np.abs(size - seen).max() > (0 if exact else 1):
                wrong.append(
                    f"{path} has {seen[0]} x {seen[1]} pixels, {self.file} says "
                    f"{size[0]:g} x {size[1]:g}"
                )
                ends = self.boxes[owner == number, 2:] - 1
                boxes += len(ends)
                fits_file = (ends > size).any(1) & (ends <= seen).all(1)
                annotates_file |= bool(fits_file.any())
        refuse = boxes and not annotates_file
        advice = (
            "The boxes fit the size stated, not the file: was it resized, or turned by "
            "EXIF, after annotation? Take the original images, or correct the "
            "annotations."
        )
        if wrong:
            self.source.notice(
                f"{len(wrong)} of {looked} images looked at are of another size than "
                f"the annotations say: {wrong[0]}. "
                f"{advice if refuse else 'Correct the sizes.'}",
                logging.ERROR if refuse else logging.WARNING,
            )


def report_absent(parts: Sequence[Objects]) -> None:
    """Name the classes without an object in all data sets of a dataloader."""
    counts = sum((found.counts for found in parts), Counter[str | None]())
    absent = [name for name in parts[0].classes if not counts[name]] if parts else []
    if not counts or not absent:
        return  # where there is no object at all has been said
    causes = Counter(
        cause
        for found in parts
        for name, cause in zip(found.names, found.cause.tolist(), strict=True)
        if name in absent
    )
    why = ", ".join(f"{n} {CAUSES[cause][0]}" for cause, n in causes.most_common())
    files = listed(found.file for found in parts)
    for found in parts:
        found.source.notice(
            f"Not one object of {listed(absent, 20)} in {files} can be "
            f"{found.source.verb}{f': {why}' if why else ''}."
        )
