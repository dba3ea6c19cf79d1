"""Labelled sets for transfer: class folders or a part of them, and labels of VOC."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from mmengine.logging import print_log

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import IMAGE_EXTENSIONS
from mmssl_ext.registry import DATASETS

from .base import PathDataset, class_names
from .folder import ImageFolder
from .listing import read_list, some
from .reading import read_file
from .walk import class_folders


@DATASETS.register_module()
class LabelledFolder(ImageFolder):
    """Class folders, all of their images or a labelled part of them.

    Args:
        root: Folder of the class folders, ``root/<class>/.../x.JPEG``.
        classes: Names of the class folders in the order of their numbers; other folders
            are left out. None for all, sorted by name.
        classes_from: Folder whose class folders give the numbers; ``root`` if None. A
            test set names its training folder here, since the same class would have
            another number where a folder is missing.
        num_classes: What the model was built for, to be checked.
        fraction: Use only this part of each class, rounded, at least one image. The
            draw depends on ``seed``, the class name and its images: a class keeps its
            images whatever the other classes, and a smaller fraction is contained in
            a larger one.
        list_file: Use only the images of this text file, one name
            (``n01440764_10026.JPEG``) or path below ``root`` per line.
        seed: Seed of ``fraction``.
        extensions: See :class:`ImageFolder`.
        pipeline, on_error, max_images: See :class:`SSLDataset`; the images are chosen
            before ``fraction``.

    Raises:
        FileNotFoundError: A folder or the list does not exist, or holds no image.
        ValueError: Classes do not fit, a model has one only, or a listed image is
            absent or ambiguous.
    """

    def __init__(
        self,
        root: str,
        pipeline: Sequence[Any] = (),
        classes: Sequence[str] | None = None,
        classes_from: str | None = None,
        num_classes: int | None = None,
        fraction: float | None = None,
        list_file: str | None = None,
        seed: int = 0,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        if fraction is not None and list_file is not None:
            raise UserValueError("Give fraction or list_file, not both.")
        if fraction is not None and not 0 < fraction <= 1:
            raise UserValueError(f"fraction={fraction} must lie in (0, 1].")
        super().__init__(root, pipeline, "subfolders", extensions, on_error, max_images)
        self._set_classes(classes, classes_from or self.root, num_classes)
        if fraction is not None:
            self._keep(self._draw(fraction, seed))
        elif list_file is not None:
            self._keep(self._listed(list_file))

    def _set_classes(
        self, classes: Sequence[str] | None, source: str, num_classes: int | None
    ) -> None:
        folders = self._metainfo["classes"]
        if not os.path.isdir(source):
            raise FileNotFoundError(
                f"The folder '{source}' that gives the classes does not exist. Correct "
                "`classes_from` of the dataset."
            )
        names = class_names(classes) if classes else tuple(class_folders(source))
        if len(set(names)) < len(names):
            raise UserValueError(f"`classes` names a class twice: {', '.join(names)}.")
        lacking = [name for name in names if name not in folders]
        if classes and lacking:
            raise UserValueError(
                f"'{self.root}' has no folder for {len(lacking)} of the {len(names)} "
                f"`classes`: {_some(lacking)}. It has {_some(folders)}."
            )
        if not classes and (unknown := [n for n in folders if n not in names]):
            raise UserValueError(
                f"'{self.root}' has {len(unknown)} class folders that '{source}' does "
                f"not have: {_some(unknown)}."
            )
        if num_classes is not None:
            _check_number(source, names, num_classes)
        number = {name: i for i, name in enumerate(names)}
        numbers = np.array([number.get(name, -1) for name in folders], np.int64)
        self.labels = numbers[self.labels]
        self._metainfo["classes"] = names
        self._keep(np.flatnonzero(self.labels >= 0))
        if lacking:
            _warn(
                f"'{self.root}' has no folder for {len(lacking)} of {len(names)} "
                f"classes, {_some(lacking)}: the figures say nothing of them."
            )

    def _keep(self, indices: np.ndarray) -> None:
        assert self.labels is not None
        self._rows, self.labels = self._rows[indices], self.labels[indices]

    def _draw(self, fraction: float, seed: int) -> np.ndarray:
        kept = []
        for label, name in enumerate(self._metainfo["classes"]):
            indices = np.flatnonzero(self.labels == label)
            code = zlib.crc32(name.encode("utf-8", "surrogateescape"))
            rng = np.random.default_rng((seed, code))
            count = min(len(indices), max(1, round(fraction * len(indices))))
            kept.append(rng.permutation(indices)[:count])
        return np.sort(np.concatenate(kept))

    def _listed(self, list_file: str) -> np.ndarray:
        names, _ = read_list(list_file)
        wanted = {name.removeprefix("./") for name in names}
        found: dict[str, int] = {}
        for index in range(len(self)):
            path = self._paths[int(self._rows[index])]
            for name in {path, os.path.basename(path)} & wanted:
                if name in found:
                    raise UserValueError(
                        f"'{name}' in the list '{list_file}' is the name of several "
                        f"images below '{self.root}': write their paths, such as "
                        f"'{path}'."
                    )
                found[name] = index
        if absent := [name for name in names if name.removeprefix("./") not in found]:
            raise UserValueError(
                f"{len(absent)} of the {len(names)} images in the list '{list_file}' "
                f"are not below '{self.root}': {_some(absent)}."
            )
        return np.unique(np.fromiter(found.values(), np.int64))


@DATASETS.register_module()
class VOCLabels(PathDataset):
    """Images of a VOC folder, with the classes that each shows.

    ``targets`` is n x C: 1 where an object of the class is in the image, 0 where all of
    them are marked difficult, -1 elsewhere, as in VOC's own lists of classes.

    Args:
        root: The folder that holds ``ImageSets/Main``, ``Annotations`` and
            ``JPEGImages``.
        split: Name of a list in ``ImageSets/Main``, without ``.txt``.
        classes: Class names; objects of other classes are left out.
        img_suffix: File name ending of the images.
        pipeline, on_error, max_images: See :class:`SSLDataset`.

    Raises:
        FileNotFoundError: The list, an annotation or an image does not exist.
        ValueError: The list is empty, an annotation is damaged, or no object is of any
            class.
    """

    def __init__(
        self,
        root: str,
        split: str,
        classes: Sequence[str],
        pipeline: Sequence[Any] = (),
        img_suffix: str = ".jpg",
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        root = os.fspath(root)
        list_file = os.path.join(root, "ImageSets", "Main", f"{split}.txt")
        names = _read_names(list_file)
        paths = [os.path.join("JPEGImages", name + img_suffix) for name in names]
        super().__init__(root, paths, pipeline, None, classes, on_error, max_images)
        number = {name: i for i, name in enumerate(self._metainfo["classes"])}
        self.targets = np.full((len(self), len(number)), -1, np.int8)
        others: set[str] = set()
        for index, row in enumerate(self._rows):
            path = os.path.join(root, paths[row])
            if not os.path.isfile(path):
                raise FileNotFoundError(
                    f"The image '{path}' of the list '{list_file}' does not exist. "
                    "Correct the list, or `img_suffix` of the dataset."
                )
            annotation = os.path.join(root, "Annotations", f"{names[row]}.xml")
            for name, difficult in _read_objects(annotation):
                if (label := number.get(name)) is None:
                    others.add(name)
                else:
                    found = 0 if difficult else 1
                    self.targets[index, label] = max(found, self.targets[index, label])
        if not (self.targets >= 0).any():
            raise UserValueError(
                f"No object below '{root}', split '{split}', is of the classes "
                f"{_some(list(number))}. Its objects are of {_some(sorted(others))}. "
                "Correct `classes`."
            )
        if others:
            _warn(
                f"'{root}', split '{split}', also has objects of "
                f"{_some(sorted(others))}, which `classes` leaves out."
            )

    def renumber(self, labels: np.ndarray, classes: Sequence[str]) -> None:
        """Take other class numbers: ``labels`` become the targets, n x C."""
        self.targets = np.asarray(labels)
        self._metainfo["classes"] = tuple(classes)


def _read_names(list_file: str) -> list[str]:
    if not os.path.isfile(list_file):
        raise FileNotFoundError(
            f"The VOC list '{list_file}' does not exist. Correct `root` or `split` of "
            "the dataset."
        )
    with open(list_file, encoding="utf-8-sig", errors="surrogateescape") as file:
        names = [line.split()[0] for line in file if line.strip()]
    if not names or any("\0" in name for name in names):
        raise UserValueError(
            f"The VOC list '{list_file}' names no image, or is no text file (it has a "
            "zero byte)."
        )
    return names


def _read_objects(annotation: str) -> list[tuple[str, bool]]:
    """Class and difficulty of each object."""
    try:
        objects = ElementTree.fromstring(read_file(annotation)[0]).findall("object")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The VOC annotation '{annotation}' does not exist."
        ) from None
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise UserValueError(
            f"The VOC annotation '{annotation}' cannot be read: {error}."
        ) from error
    texts = [(o.findtext("name", ""), o.findtext("difficult", "0")) for o in objects]
    return [(name.strip(), mark.strip() == "1") for name, mark in texts]


def _check_number(source: str, names: Sequence[str], num_classes: int) -> None:
    """Refuse a folder of other classes than the model was built for."""
    if len(names) == 1:
        inner = os.path.join(source, names[0])
        deeper = os.path.isdir(inner) and class_folders(inner)
        hint = f" Perhaps the folder is '{inner}'." if deeper else ""
        raise UserValueError(
            f"'{source}' has one class folder, {_some(names)}: there is nothing to "
            f"tell apart. Sort the images into a folder per class.{hint}"
        )
    if num_classes != len(names):
        raise UserValueError(
            f"'{source}' has {len(names)} classes, but the model is built for "
            f"{num_classes}: set num_classes={len(names)}."
        )


def _some(names: Sequence[str]) -> str:
    return some(names, 5, "'")


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
