"""Datasets of image files: any folder of images, or a text list of paths."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import DATASETS
from mmssl_ext.text import shown

from .base import SSLDataset
from .listing import IMAGE_EXTENSIONS, PackedPaths, read_list
from .walk import ImageWalk, class_folders


def warn_of_empty(root: str, classes: Sequence[str], targets: np.ndarray) -> None:
    """Log which classes have no image, unless there is none at all."""
    counts = np.bincount(targets, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if len(targets) and empty:
        print_log(
            f"{len(empty)} of the {len(classes)} class folders in '{root}' "
            f"hold no image, e.g. {', '.join(map(shown, empty[:3]))}. They keep "
            "their numbers.",
            logger="current",
            level=logging.WARNING,
        )


@DATASETS.register_module()
class ImageFolder(SSLDataset):
    """All images below a folder, at any depth; see :class:`ImageWalk`.

    What is left out is logged once: other types, special files, links to folders that
    are read anyway.

    Args:
        root: The folder.
        pipeline: See :class:`SSLDataset`.
        labels: ``"none"``, or ``"subfolders"`` for the ImageNet layout
            ``root/<class>/.../x.JPEG``: the classes are the sorted subfolders of
            ``root``, and images directly in ``root`` are left out.
        extensions: File name endings of images; upper and lower case are equal.
        on_error: See :class:`SSLDataset`.
        max_images: See :class:`SSLDataset`.

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
        if labels not in ("none", "subfolders"):
            raise UserValueError(
                f'labels must be "none" or "subfolders", but is {labels!r}.'
            )
        self.root = os.fspath(root)
        if not os.path.exists(self.root):
            raise FileNotFoundError(
                f"The image folder '{self.root}' (seen from '{os.getcwd()}') does not "
                f"exist. Correct `root` of the dataset."
            )
        if not os.path.isdir(self.root):
            raise NotADirectoryError(
                f"The image folder '{self.root}' is a file. For a text list of images "
                f"use the dataset ImageList."
            )
        if isinstance(extensions, str):  # ".jpg" alone
            extensions = [extensions]
        endings = tuple(e.lower() for e in extensions)
        walk = ImageWalk(self.root, endings)
        targets, classes, stray, left = None, None, 0, ""
        if labels == "subfolders":
            classes = class_folders(self.root)
            number = {name: i for i, name in enumerate(classes)}
            kept = [path for path in walk if "/" in path]
            targets = np.array([number[p[: p.index("/")]] for p in kept], np.int64)
            self._paths = PackedPaths(kept)
            warn_of_empty(self.root, classes, targets)
            if stray := walk.account.found - len(kept):
                left = f"{stray:,} outside of its subfolders, which are the classes"
        else:
            self._paths = PackedPaths(walk)
        if not len(self._paths):
            where = "in the subfolders of" if labels == "subfolders" else "below"
            raise FileNotFoundError(
                f"No image was found {where} '{self.root}'. Looked for files ending "
                f"in {', '.join(endings)}, and left hidden ones out. "
                f"{walk.account.text(self.root, left)}".rstrip()
            )
        walk.account.tell(self.root, left, stray)
        super().__init__(
            len(self._paths),
            pipeline,
            labels=targets,
            classes=classes,
            on_error=on_error,
            max_images=max_images,
        )

    def describe(self, row: int) -> dict[str, Any]:
        """Return ``img_path`` of image ``row``."""
        return {"img_path": os.path.join(self.root, self._paths[row])}


@DATASETS.register_module()
class ImageList(SSLDataset):
    """The images named by a text file, one ``path`` or ``path label`` per line.

    Paths may contain spaces. The last field is a label only if every line ends in an
    integer. Blank lines and lines that start with ``#`` are left out. Whether an image
    exists is found out when it is read, under ``on_error``.

    Args:
        ann_file: The list.
        root: Folder that relative paths start from; the working directory if empty.
        pipeline: See :class:`SSLDataset`.
        classes: Class names of a labelled list; its label numbers if None.
        on_error: See :class:`SSLDataset`.
        max_images: See :class:`SSLDataset`.

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
        self.ann_file = os.fspath(ann_file)
        self.root = os.fspath(root)
        if self.root and not os.path.isdir(self.root):
            raise FileNotFoundError(
                f"The folder '{self.root}' that the list '{self.ann_file}' refers to "
                f"does not exist. Correct `root` of the dataset."
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
        self._paths = PackedPaths(paths)
        super().__init__(
            len(self._paths),
            pipeline,
            labels=targets,
            classes=classes,
            on_error=on_error,
            max_images=max_images,
        )

    def describe(self, row: int) -> dict[str, Any]:
        """Return ``img_path`` of image ``row``."""
        return {"img_path": os.path.join(self.root, self._paths[row])}
