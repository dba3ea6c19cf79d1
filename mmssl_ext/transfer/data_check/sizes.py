"""Compare the sizes that annotations state with those of the images as read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .base import Findings, Source
from .images import size_as_read

NUM_SIZES = 100  # images of annotations whose heads are read

Size = tuple[int, int]
Boxes = Sequence[Sequence[float]]


def check_sizes(
    source: Source,
    findings: Findings,
    file: str,
    stated: Iterable[tuple[Path, Size, Boxes]],
    exact: bool = False,
) -> None:
    """Note images that are not as large as the annotations say.

    Boxes that lie within the stated size do not belong to an image of another size, as
    where it was shrunk, or turned by EXIF, after annotation: a problem. Where only the
    stated size is wrong, it is a notice.

    Args:
        source: The data set.
        findings: Receives problems and notices.
        file: What was read, for the sentences.
        stated: Images with the width and height stated for them, and the corners of
            their boxes.
        exact: A difference of one pixel counts.
    """
    wrong: list[str] = []
    looked = boxes_seen = 0
    boxes_fit_file = False
    for path, size, boxes in stated:
        if not os.path.isfile(path):
            continue  # said elsewhere
        try:
            seen, _ = size_as_read(source, path)
        except Exception as error:  # PIL raises almost anything on damaged data
            findings.problem(source.place, f"{path} cannot be read: {error}.")
            continue
        looked += 1
        width, height = (abs(a - b) for a, b in zip(seen, size, strict=True))
        if max(width, height) <= (0 if exact else 1):
            continue
        wrong.append(
            f"{path} has {seen[0]} x {seen[1]} pixels, {file} says {size[0]} x "
            f"{size[1]}"
        )
        boxes_seen += len(boxes)
        boxes_fit_file |= any(
            not _holds(size, box) and _holds(seen, box) for box in boxes
        )
    if not wrong:
        return
    sentence = (
        f"{len(wrong)} of {looked} images looked at are of another size than the "
        f"annotations say: {wrong[0]}."
    )
    if boxes_seen and not boxes_fit_file:
        findings.problem(
            source.place,
            f"{sentence} The boxes fit the size stated, not the file: was it resized, "
            "or turned by EXIF, after annotation? Take the original images, or correct "
            "the annotations.",
        )
    else:
        findings.notice(source.place, f"{sentence} Correct the sizes.")


def _holds(size: Size, box: Sequence[float]) -> bool:
    return box[2] <= size[0] + 1 and box[3] <= size[1] + 1
