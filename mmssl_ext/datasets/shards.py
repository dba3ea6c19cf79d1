"""Shards: the images of a folder in a few large tar files, read by random access.

A cluster's file system serves a few large files far better than millions of small ones.
A folder of shards holds plain tar files, which ``tar`` and webdataset read as well, and
``index.npz``, which says where in them each image lies::

    shard-00000.tar   n01440764/n01440764_10026.JPEG, ...: the files' own bytes
    shard-00001.tar   ...
    index.npz         names, places, labels; written last, so what has it is complete

Names and order are those of :class:`ImageFolder` on the source folder, or of
:class:`ImageList`; so labels, augmentation and the fingerprint are the same.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.files import MISSING, SHARD_INDEX, size_of, write_bytes
from mmssl_ext.registry import DATASETS

from .base import SSLDataset
from .folder import warn_of_empty
from .listing import PackedPaths
from .reading import MAX_FILE_BYTES, read_range, too_large
from .transforms.decode import UnreadableImageError
from .transforms.random import check_choice

UNFINISHED = "UNFINISHED.txt"  # there while shards are written
VERSION = 1  # of the index
_MAX_OPEN = 256  # shards per process; a process may often open 1024 files
COMMAND = "python tools/make_shards.py"


class ShardError(UserValueError):
    """Shards, their index, or what they are to be made from cannot be used."""


@dataclass(frozen=True)
class ShardIndex:
    """Where each image lies; n images in s shards."""

    names: PackedPaths  # of the images, below the source folder
    shard: np.ndarray  # number of each image's shard, n
    offset: np.ndarray  # first byte of each image in its shard, n
    size: np.ndarray  # bytes of each image, n
    labels: np.ndarray  # class of each image, n; -1 where it has none
    labels_from: str  # "subfolders" (of the source folder) or "list"
    classes: PackedPaths
    shards: PackedPaths  # file names
    shard_sizes: np.ndarray  # bytes, s

    _ARRAYS = ("shard", "offset", "size", "labels", "shard_sizes")
    _NAMES = ("names", "classes", "shards")

    def write(self, folder: Path) -> None:
        """Write the index in one step."""
        arrays = {name: getattr(self, name) for name in self._ARRAYS}
        for name in self._NAMES:
            arrays[name], arrays[f"{name}_ends"] = getattr(self, name).arrays()
        buffer = io.BytesIO()
        np.savez(buffer, version=VERSION, labels_from=self.labels_from, **arrays)
        write_bytes(folder / SHARD_INDEX, buffer.getvalue())

    @classmethod
    def load(cls, folder: str) -> ShardIndex:
        """Read an index and compare it with the shards beside it.

        Raises:
            FileNotFoundError: The folder, its index or a shard does not exist.
            ShardError: The index is damaged, or a shard has not the size it had.
        """
        path = os.path.join(folder, SHARD_INDEX)
        seen = f"'{folder}' (seen from '{os.getcwd()}')"
        if not os.path.isdir(folder):
            raise FileNotFoundError(
                f"The folder of shards {seen} does not exist. Correct `root` of the "
                f"dataset, or make it by `{COMMAND} FOLDER {folder}`."
            )
        if not os.path.isfile(path):
            if os.path.exists(os.path.join(folder, UNFINISHED)):
                raise FileNotFoundError(
                    f"The shards in '{folder}' are not complete: their conversion is "
                    "still running or was interrupted. Wait for it, or run "
                    f"`{COMMAND} FOLDER {folder}` again, which starts it anew."
                )
            raise FileNotFoundError(
                f"The folder {seen} has no {SHARD_INDEX}. If it holds images, use the "
                f"dataset ImageFolder or convert them by `{COMMAND}`."
            )
        return cls._read(folder, path)

    @classmethod
    def _read(cls, folder: str, path: str) -> ShardIndex:
        try:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type for member in archive.infolist()):
                    raise UserValueError("it is compressed")  # to anything from 1 kB on
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if (version := int(arrays["version"])) != VERSION:
                raise UserValueError(
                    f"it has format {version}, this version of mmssl_ext reads format "
                    f"{VERSION}"
                )
            values: dict[str, Any] = {name: arrays[name] for name in cls._ARRAYS}
            for name in cls._NAMES:
                pair = arrays[name], arrays[f"{name}_ends"]
                values[name] = PackedPaths.from_arrays(*pair)
            index = cls(**values, labels_from=str(arrays["labels_from"]))
            index.check()
        # A zip file and the arrays in it can be damaged to anything: ValueError,
        # KeyError, zlib.error, tokenize.TokenError, MemoryError, RecursionError.
        except Exception as error:
            raise ShardError(
                f"The index '{path}' is damaged, or no index of shards "
                f"({type(error).__name__}: {error}). Copy it again from where it came, "
                f"or convert the images again by `{COMMAND}`."
            ) from error
        index._check_shards(folder)
        return index

    def check(self) -> None:
        """Raise ValueError unless every entry lies inside of what it refers to."""
        n, s = len(self.names), len(self.shards)
        for name in self._ARRAYS:
            array = getattr(self, name)
            shape = (s if name == "shard_sizes" else n,)
            if array.shape != shape or array.dtype.kind != "i":
                raise UserValueError(
                    f"'{name}' is {array.dtype} of shape {array.shape}"
                )
        for name in self._NAMES:
            buffer, ends = getattr(self, name).arrays()
            whole = len(buffer) == (int(ends[-1]) if len(ends) else 0)
            rising = (np.diff(ends, prepend=0) > 0).all()
            if buffer.dtype != np.uint8 or not (rising and whole):
                raise UserValueError(f"the names in '{name}' do not fit their ends")
        if any({"/", "\0"} & set(name) for name in self.shards):
            raise UserValueError("a shard lies in another folder")
        known = (self.shard >= 0) & (self.shard < s)
        if not known.all():
            raise UserValueError(f"image {known.argmin()} lies in no shard")
        room = self.shard_sizes[self.shard] - self.size
        inside = (self.size >= 0) & (self.offset >= 0) & (self.offset <= room)
        if not inside.all():
            raise UserValueError(f"image {inside.argmin()} lies outside of its shard")
        if self.labels_from not in ("subfolders", "list"):
            raise UserValueError(f"labels_from is '{self.labels_from}'")
        if n and not -1 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise UserValueError("a label has no class name")

    def _check_shards(self, folder: str) -> None:
        cure = f"Copy it again, or convert the images again by `{COMMAND}`."
        for name, size in zip(self.shards, self.shard_sizes, strict=True):
            path = os.path.join(folder, name)
            if (found := size_of(path)) == MISSING:
                raise FileNotFoundError(f"The shard '{path}' is missing. {cure}")
            if found != size:
                raise ShardError(
                    f"The shard '{path}' has {found} bytes, but had {size} when it was "
                    f"written: it is truncated or another. {cure}"
                )

    def __str__(self) -> str:
        """Return one line of figures."""
        classes = f", {len(self.classes)} classes" if len(self.classes) else ""
        sizes = format_bytes(self.shard_sizes.sum()), format_bytes(self.size.sum())
        return (
            f"{len(self.names):,} images in {len(self.shards):,} shards, {sizes[0]} "
            f"(images alone {sizes[1]}){classes}"
        )


def format_bytes(count: int) -> str:
    """Write a number of bytes with a unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


class _OpenFile:
    """A descriptor that closes when the last reference to it is gone."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@DATASETS.register_module()
class ImageShards(SSLDataset):
    """Images in tar files with an index, as ``tools/make_shards.py`` writes them.

    Equal in everything to :class:`ImageFolder` (or :class:`ImageList`) on what they
    were made from: images, order, labels, class names, seeds, fingerprint. A run that
    started on one of them resumes on the other.

    Args:
        root: The folder of the shards.
        labels: ``"none"``; ``"subfolders"`` for those that ImageFolder takes from class
            folders, without the images directly in the folder; ``"list"`` for those of
            the list that the shards were made from.
        pipeline, on_error, max_images: See :class:`SSLDataset`.

    Raises:
        FileNotFoundError: ``root``, its index or a shard does not exist, or there is no
            image (in class folders).
        ShardError: The index is damaged or of another version, or does not fit the
            shards or ``labels``.
    """

    remedy = "Restore this shard, or replace the image and convert its folder again"

    def __init__(
        self,
        root: str,
        pipeline: Sequence[Any] = (),
        labels: str = "none",
        on_error: str = "raise",
        max_images: int | None = None,
    ) -> None:
        check_choice("labels", labels, "none", "subfolders", "list")
        self.root = os.fspath(root)
        self.index = ShardIndex.load(self.root)
        self._open: dict[int, _OpenFile] = {}
        rows: np.ndarray = np.arange(len(self.index.names))
        targets, classes = None, None
        if labels != "none":
            if labels != self.index.labels_from:
                raise ShardError(
                    f"The shards in '{self.root}' have no labels from {labels}, but "
                    f'from {self.index.labels_from}: set labels="'
                    f'{self.index.labels_from}" or "none".'
                )
            rows = np.flatnonzero(self.index.labels >= 0)
            targets = self.index.labels.astype(np.int64)
            classes = list(self.index.classes)
            warn_of_empty(self.root, classes, targets[rows])
        if not len(rows):
            where = " that belongs to a class" if labels != "none" else ""
            raise FileNotFoundError(
                f"The shards in '{self.root}' hold no image{where}."
            )
        super().__init__(rows, pipeline, targets, classes, on_error, max_images)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind: another process opens its own."""
        return {**self.__dict__, "_open": {}}

    def name(self, row: int) -> str:
        """Return the path of image ``row`` below the folder it came from."""
        return self.index.names[row]

    def describe(self, row: int) -> dict[str, Any]:
        """Return ``img_path`` of image ``row``: root, shard and name."""
        shard = self.index.shards[int(self.index.shard[row])]
        return {"img_path": os.path.join(self.root, shard, self.name(row))}

    def file_size(self, row: int) -> int:
        """Return the number of bytes of image ``row``."""
        return int(self.index.size[row])

    def file_head(self, row: int, most: int) -> bytes:
        """Return the first bytes of image ``row``, none where it cannot be read."""
        try:
            return self.read(row)["img_bytes"][:most]
        except UnreadableImageError:
            return b""

    def read(self, row: int) -> dict[str, Any]:
        """Return ``img_bytes`` of image ``row``.

        Raises:
            UnreadableImageError: The shard has vanished, has become shorter, or its
                disk fails; or the image has more bytes than any.
        """
        offset, size = int(self.index.offset[row]), int(self.index.size[row])
        try:
            if size > MAX_FILE_BYTES:
                raise UserValueError(too_large(size))
            file = self._file(int(self.index.shard[row]))
            data = read_range(file.descriptor, offset, size)
            if len(data) < size:
                raise OSError("the shard ends before the image does")
        except (OSError, UserValueError) as error:
            reason = str(error)
            if isinstance(error, OSError):
                reason = f"its shard fails, {error.strerror or error}"
            path = self.describe(row)["img_path"]
            raise UnreadableImageError(path, reason) from error
        return {"img_bytes": data}

    def _file(self, shard: int) -> _OpenFile:
        file = self._open.get(shard)
        if file is None:
            file = _OpenFile(os.path.join(self.root, self.index.shards[shard]))
            if len(self._open) >= _MAX_OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[shard] = file
        return file
