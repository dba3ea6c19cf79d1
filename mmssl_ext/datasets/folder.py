"""Datasets of image files: any folder of images, or a text list of paths."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import IMAGE_EXTENSIONS
from mmssl_ext.registry import DATASETS

from .base import PathDataset
from .listing import PackedPaths, read_list, some
from .transforms.random import check_choice
from .walk import ImageWalk, class_folders


def warn_of_empty(root: str, classes: Sequence[str], targets: np.ndarray) -> None:
    """Log which classes have no image, unless there is none at all."""
    counts = np.bincount(targets, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if len(targets) and empty:
        print_log(
            f"{len(empty)} of the {len(classes)} class folders in '{root}' hold no "
            f"image, e.g. {some(empty)}. They keep their numbers.",
            logger="current",
            level=logging.WARNING,
        )


@DATASETS.register_module()
class ImageFolder(PathDataset):
    """All images below a folder, at any depth; see :class:`ImageWalk`.

    What is left out is logged once: other types, special files, links to folders that
    are read anyway.

    Args:
        root: The folder.
        labels: ``"none"``, or ``"subfolders"`` for the ImageNet layout
            ``root/<class>/.../x.JPEG``: the classes are the sorted subfolders of
            ``root``, and images directly in ``root`` are left out.
        extensions: File name endings of images; upper and lower case are equal.
        pipeline, on_error, max_images: See :class:`SSLDataset`.

    Raises:
        FileNotFoundError: ``root`` does not exist or holds no image.
        NotADirectoryError: ``root`` is a file.
        FolderError: A folder below ``root`` cannot be read.
    """

    def __init__(
        self,
        root: str,
        pipeline: Sequence[Any] = (),
        labels: str = "none",
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        check_choice("labels", labels, "none", "subfolders")
        root = os.fspath(root)
        if not os.path.exists(root):
            raise FileNotFoundError(
                f"The image folder '{root}' (seen from '{os.getcwd()}') does not "
                f"exist. Correct `root` of the dataset."
            )
        if not os.path.isdir(root):
            raise NotADirectoryError(
                f"The image folder '{root}' is a file. For a text list of images "
                f"use the dataset ImageList."
            )
        if isinstance(extensions, str):  # ".jpg" alone
            extensions = [extensions]
        walk = ImageWalk(root, tuple(e.lower() for e in extensions))
        targets, classes, where = None, None, "below"
        if labels == "none":
            paths: Any = PackedPaths(walk)
        else:
            classes, where = class_folders(root), "in the subfolders of"
            paths = [path for path in walk if "/" in path]
            walk.account.outside = walk.account.found - len(paths)
            number = {name: i for i, name in enumerate(classes)}
            targets = np.array([number[p[: p.index("/")]] for p in paths], np.int64)
            warn_of_empty(root, classes, targets)
        if not len(paths):
            raise FileNotFoundError(
                f"No image was found {where} '{root}'. Looked for files ending in "
                f"{', '.join(walk.suffixes)}, and left hidden ones out. "
                f"{walk.account.text(root)}".rstrip()
            )
        walk.account.tell(root)
        super().__init__(root, paths, pipeline, targets, classes, on_error, max_images)


@DATASETS.register_module()
class ImageList(PathDataset):
    """The images named by a text file, one ``path`` or ``path label`` per line.

    Paths may contain spaces. The last field is a label only if every line ends in an
    integer. Blank lines and lines that start with ``#`` are left out. Whether an image
    exists is found out when it is read, under ``on_error``.

    Args:
        ann_file: The list.
        root: Folder that relative paths start from; the working directory if empty.
        classes: Class names of a labelled list; its label numbers if None.
        pipeline, on_error, max_images: See :class:`SSLDataset`.

    Raises:
        FileNotFoundError: The list does not exist.
        ValueError: The list is empty, or a line is malformed (named by its number).
    """

    def __init__(
        self,
        ann_file: str,
        root: str = "",
        pipeline: Sequence[Any] = (),
        classes: Sequence[str] | None = None,
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        self.ann_file, root = os.fspath(ann_file), os.fspath(root)
        if root and not os.path.isdir(root):
            raise FileNotFoundError(
                f"The folder '{root}' that the list '{self.ann_file}' refers to does "
                f"not exist. Correct `root` of the dataset."
            )
        paths, targets = read_list(self.ann_file)
        if targets is None:
            classes = None
        else:
            top = int(targets.max())
            classes = classes or [str(i) for i in range(top + 1)]
            if top >= len(classes):
                raise UserValueError(
                    f"The list '{self.ann_file}' has the label {top}, but `classes` "
                    f"names only {len(classes)} classes."
                )
        super().__init__(root, paths, pipeline, targets, classes, on_error, max_images)
