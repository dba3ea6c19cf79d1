"""Count the objects that mmdet trains on and scores, by the rules of its loaders."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
_GEOMETRY = ["outside", "area", "small", "relative"]  # faults of the box itself
_MARKED = ["crowd", "difficult"]  # usual, but a mistake where most objects are
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

    def told(self, causes: Iterable[str]) -> list[str]:
        """What is wrong for these causes, the most frequent one first."""
        number = {cause: int((self.cause == cause).sum()) for cause in causes}
        return [
            f"{number[c]} {CAUSES[c][0]} (the first: {self._first(self.cause == c)})"
            for c in sorted(number, key=lambda c: -number[c])
            if number[c]
        ]

    def _first(self, chosen: np.ndarray) -> str:
        return self.example(int(chosen.argmax()))

    def report(self) -> None:
        """Say that there is no object at all, or how many are lost."""
        source, objects = self.source, self.cause == ""
        if not objects.any():
            self._report_none()
            return
        if empty := len(self.paths) - len(np.unique(self.image[objects])):
            filters = (source.training and source.cfg.get("filter_cfg")) or {}
            fate = ""
            if filters.get("filter_empty_gt"):
                fate = " Those without any annotation are left out (filter_empty_gt)."
            source.notice(
                f"{empty} of {len(self.paths)} images in {self.file} have no box."
                f"{fate}",
                logging.INFO,
            )
        beyond = self.beyond
        if faults := int((np.isin(self.cause, _GEOMETRY) | beyond).sum()):
            parts = self.told(_GEOMETRY)
            if beyond.any():
                example = self._first(beyond)
                parts.append(f"{beyond.sum()} leave it in part (the first: {example})")
            source.notice(
                f"{faults} boxes in {self.file} leave their image or have no area: "
                f"{', '.join(parts)}."
            )
        for cause in ("ignored", "mask", *_MARKED):
            marked = self.cause == cause
            if number := int(marked.sum()):
                usual = cause in _MARKED and 2 * number < self.used.sum()
                source.notice(
                    f"{number} of {len(self.names)} annotations in {self.file} "
                    f"{CAUSES[cause][0]}: they are not {source.verb}; the first: "
                    f"{self._first(marked)}.",
                    logging.INFO if usual else logging.WARNING,
                )
        if strays := int(np.isin(self.cause, ["stray", "unknown"]).sum()):
            source.notice(
                f"{strays} annotations in {self.file} are left out: "
                f"{', '.join(self.told(['stray', 'unknown']))}."
            )

    def _report_none(self) -> None:
        verb, total = self.source.verb, len(self.names)
        counts = Counter(self.cause.tolist())
        why = f", so nothing can be {verb}. {CAUSES['other'][1]}"
        if counts:
            advice = " ".join(CAUSES[cause][1] for cause, _ in counts.most_common(2))
            causes = ", ".join(self.told(counts))
            why = f" that can be {verb}: of {total} annotations {causes}. {advice}"
        self.source.notice(
            f"No image in {self.file} has a box of any class in `classes`{why}",
            self.source.level,
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
        looked = 0
        any_box = fit_file = False
        owner = np.where(self.used, self.image, -1)
        for number in spread(np.flatnonzero(self.sizes.all(1)).tolist(), _NUM_SIZES):
            if not os.path.isfile(path := self.paths[number]):
                continue  # said elsewhere
            try:
                seen, _ = size_as_read(self.source, path)
            except Fault as fault:
                self.source.problem(str(fault))
                continue
            looked += 1
            size = self.sizes[number]
            if np.abs(size - seen).max() <= (0 if exact else 1):
                continue
            wrong.append(
                f"{path} has {seen[0]} x {seen[1]} pixels, {self.file} says "
                f"{size[0]:g} x {size[1]:g}"
            )
            ends = self.boxes[owner == number, 2:]
            leaves, fits = (ends > size + 1).any(1), (ends <= np.add(seen, 1)).all(1)
            any_box |= len(ends) > 0
            fit_file |= bool((leaves & fits).any())
        if not wrong:
            return
        sentence = (
            f"{len(wrong)} of {looked} images looked at are of another size than the "
            f"annotations say: {wrong[0]}."
        )
        if any_box and not fit_file:
            self.source.problem(
                f"{sentence} The boxes fit the size stated, not the file: was it "
                "resized, or turned by EXIF, after annotation? Take the original "
                "images, or correct the annotations."
            )
        else:
            self.source.notice(f"{sentence} Correct the sizes.")


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
