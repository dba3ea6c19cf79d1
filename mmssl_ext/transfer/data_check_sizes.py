"""Compare the sizes that annotations state with those of the image files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from mmssl_ext.datasets.transforms.decode import FORMATS

from .data_check_base import Findings, Source

NUM_SIZES = 100  # image files whose headers are read

_ORIENTATION = 0x0112  # in EXIF; from 5 on rows and columns are exchanged

Size = tuple[int, int]
Boxes = Sequence[Sequence[float]]


def seen_size(path: Path, turns: bool) -> Size:
    """Width and height of an image as its pipeline sees it; only the header is read.

    Args:
        path: The image.
        turns: The pipeline turns images as their EXIF data say.
    """
    with Image.open(path, formats=FORMATS) as img:
        width, height = img.size
        # Without the condition PIL would decode a whole PNG in search of it.
        turned = turns and "exif" in img.info and img.getexif().get(_ORIENTATION, 1) > 4
    return (height, width) if turned else (width, height)


def turns_images(source: Source) -> bool:
    """Whether the pipeline of a data set turns images as their EXIF data say."""
    for step in source.cfg.get("pipeline") or ():
        if isinstance(step, dict) and step.get("type") == "LoadImageFromFile":
            colours = str(step.get("color_type", "color"))
            backend = step.get("imdecode_backend", "cv2")
            return colours in ("color", "grayscale") and backend in ("cv2", "pillow")
    return True  # mmcv's default


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
    turns = turns_images(source)
    wrong: list[str] = []
    looked = boxes_seen = 0
    boxes_fit_file = False
    for path, size, boxes in stated:
        try:
            seen = seen_size(path, turns)
        except FileNotFoundError:
            continue  # said elsewhere
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
            "or turned by EXIF, after annotation? Take the original images, or scale "
            "the annotations.",
        )
    else:
        findings.notice(source.place, f"{sentence} Correct the sizes.")


def _holds(size: Size, box: Sequence[float]) -> bool:
    return box[2] <= size[0] + 1 and box[3] <= size[1] + 1
