"""What a folder, a list or a set of shards holds, as a dataset of the package."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import IMAGE_EXTENSIONS, MISSING, SHARD_INDEX, path_named
from mmssl_ext.text import cut, shown

from .settings import Images

_LOOKED_AT = 32  # images, evenly spread


def dataset_of(data: str | os.PathLike[str]) -> dict[str, Any]:
    """Config of the dataset that reads a place, without pipeline.

    Args:
        data: Folder of images of any depth, folder of shards (see
            :class:`ImageShards`), or a text list as for :class:`ImageList`, whose paths
            start from its folder.

    Raises:
        UserTypeError: It is no path.
        UserValueError: There is no such place, or it is an image.
    """
    if data == "":  # which Path would take for the folder at hand
        raise UserValueError(
            "The name of the images is empty. Give a folder of images, a folder of "
            "shards, or a text list of images; '.' is the folder at hand."
        )
    path = Path(os.path.expanduser(path_named("data", data)))
    if (path / SHARD_INDEX).is_file():
        return {"type": "ImageShards", "root": str(path)}
    if path.is_dir():
        return {"type": "ImageFolder", "root": str(path)}
    if not path.exists():
        raise UserValueError(
            f"'{shown(data)}' (seen from '{os.getcwd()}') does not exist. Give a "
            "folder of images, a folder of shards, or a text list of images."
        )
    if path.name.lower().endswith(IMAGE_EXTENSIONS):
        raise UserValueError(
            f"'{shown(data)}' is one image. Give the folder that holds it, or a text "
            "list with its path."
        )
    root = str(path.absolute().parent)
    return {"type": "ImageList", "ann_file": str(path), "root": root}


def check_apart(dataset: dict[str, Any], out: str | os.PathLike[str]) -> None:
    """Refuse a run within its images: its pictures would be images from then on.

    So the next run would learn from them, and this one could not be resumed, as its
    images have changed. Hidden folders are never read, see :class:`ImageWalk`.

    Args:
        dataset: From :func:`dataset_of`.
        out: Folder of the run; it need not be there.

    Raises:
        UserValueError: It is the folder of images, or below it.
    """
    if dataset["type"] != "ImageFolder":
        return
    images, run = Path(os.path.realpath(dataset["root"])), Path(os.path.realpath(out))
    if not run.is_relative_to(images):
        return
    inner = run.relative_to(images).parts
    if not any(part.startswith(".") for part in inner):
        raise UserValueError(
            f"The folder of the run, '{shown(out)}', is {'below ' * bool(inner)}that "
            f"of the images, '{shown(dataset['root'])}': pictures of the run would be "
            "images from then on. Choose one beside it by --out."
        )


def bands_named(text: str | None) -> int | list[int] | None:
    """The bands of an option: ``5`` is a number of them, ``3,2,1`` or ``4,`` which.

    Raises:
        UserValueError: It is neither.
    """
    if text is None:
        return None
    try:
        if "," in text:
            return [int(number) for number in text.split(",") if number.strip()]
        return int(text)
    except ValueError as error:
        raise UserValueError(
            f"--bands {text!r} must be the number of bands, as 5, or which of them, "
            "counted from 0, as 3,2,1."
        ) from error


def look_at(dataset: dict[str, Any]) -> Images:
    """Count the images, and look at some for their size.

    Raises:
        UserValueError: There is none.
    """
    try:
        built = build_dataset(dataset)
    except FileNotFoundError as error:
        raise UserValueError(str(error)) from error
    count = len(built)
    step = max(1, count // _LOOKED_AT)
    sides = [side for row in range(0, count, step) if (side := _short_side(built, row))]
    return Images(count, int(median(sides)) if sides else None)


def build_dataset(dataset: dict[str, Any]) -> Any:
    """The dataset without a pipeline, whichever toolbox ran in this process before.

    Args:
        dataset: From :func:`dataset_of`.

    Raises:
        UserValueError: It is a list, and nothing that it names is there.
    """
    from mmssl_ext.registry import DATASETS, SCOPE

    kind = f"{SCOPE}.{dataset['type']}"
    built = DATASETS.build({**dataset, "type": kind, "pipeline": []})
    if dataset["type"] == "ImageList":
        _check_some_are_there(built)
    return built


def _check_some_are_there(listed: Any) -> None:
    """Refuse any other text, whose lines would be taken for images that are missing."""
    if any(listed.file_size(row) != MISSING for row in range(len(listed))):
        return
    raise UserValueError(
        f"None of the {len(listed):,} images that '{shown(listed.ann_file)}' lists is "
        f"there; the first is {cut(repr(listed.name(0)))}, seen from "
        f"'{shown(listed.root)}'. A list has one `path` or `path label` per line."
    )


def _short_side(dataset: Any, row: int) -> int | None:
    """The short side of an image in pixels, None where its head cannot be read."""
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(dataset.file_head(row, 1 << 16))) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
