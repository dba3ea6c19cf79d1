"""The converter to shards, by ``tools/make_shards.py``; see :mod:`.shards`."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from torch.utils.data import DataLoader

from mmssl_ext import interrupt
from mmssl_ext.files import SHARD_INDEX, size_of, write_text
from mmssl_ext.room import no_room, told
from mmssl_ext.text import shown, tenths

from .base import SSLDataset
from .folder import ImageFolder, ImageList
from .listing import PackedPaths, some
from .look import warn_of_unread
from .reading import MAX_FILE_BYTES, NoImageError, read_file, too_large
from .shards import (
    UNFINISHED,
    ImageShards,
    ShardError,
    ShardIndex,
    format_bytes,
)
from .transforms.decode import DecodeImage, UnreadableImageError
from .walk import class_folders

_OWN_SHARD = re.compile(r"shard-\d{5,}\.tar")
_BLOCK = tarfile.BLOCKSIZE
_T = TypeVar("_T")
_R = TypeVar("_R")


def make_shards(
    folder: str,
    out: str,
    list_file: str | None = None,
    shard_size: int = 10**9,
) -> ShardIndex:
    """Copy the images of a folder into shards, and return their index.

    The same files give the same bytes.

    Args:
        folder: See :class:`ImageFolder`.
        out: New or empty folder, or one where a conversion was interrupted.
        list_file: Only the images of this list, in its order and with its labels; see
            :class:`ImageList`. Its paths start from ``folder``.
        shard_size: Bytes after which the next shard begins.

    Raises:
        FileNotFoundError: ``folder`` or ``list_file`` does not exist or has no image.
        ShardError: ``out`` holds something already or cannot be written, its disk is
            too small, or an image cannot be read.
    """
    target = Path(out)
    if shard_size < 1:
        raise ShardError(f"The size of a shard must be positive, but is {shard_size}.")
    leftovers = _leftovers(target)
    source = ImageList(list_file, folder) if list_file else ImageFolder(folder)
    rows = range(len(source))
    names = PackedPaths(_checked_name(source.name(row), folder) for row in rows)
    sizes = _file_sizes(source, folder)
    warn_of_unread(source)
    for path in leftovers:
        path.unlink()
    _check_space(target, names, sizes, shard_size)
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_text(
            target / UNFINISHED,
            f"Shards of {folder} are being written here. If no conversion is running, "
            "it was interrupted: start it again, and it begins anew.\n",
        )
        with _Writer(target, shard_size) as writer:
            places = _copy(source, names, writer)
        index = ShardIndex(
            *(names, *places, *_labels(source, names, folder)),
            PackedPaths(_shard_name(i) for i in range(len(writer.sizes))),
            np.array(writer.sizes, np.int64),
        )
        index.write(target)
        (target / UNFINISHED).unlink()
    except OSError as error:
        raise _not_written(target, error) from error
    return index


def _not_written(target: Path, error: OSError) -> ShardError:
    text = f" to '{target}': {error}. Correct this and run the command again."
    if (cause := no_room(error)) is not None:
        found = OSError(cause.errno, cause.strerror, str(target / UNFINISHED))
        text = f": {told(found)}"
    return ShardError(f"The shards cannot be written{text} It starts anew.")


def _labels(
    source: SSLDataset, names: PackedPaths, folder: str
) -> tuple[np.ndarray, str, PackedPaths]:
    """Return labels, where they come from, and class names."""
    if source.labels is not None:
        classes = PackedPaths(source.metainfo["classes"])
        return source.labels.astype(np.int32), "list", classes
    tops = class_folders(folder)
    number = {f"{name}/": i for i, name in enumerate(tops)}
    labels = (number.get(name[: name.find("/") + 1], -1) for name in names)
    found = np.fromiter(labels, np.int32, len(names))
    return found, "subfolders", PackedPaths(tops)


def verify_shards(folder: str, workers: int = 0) -> None:
    """Decode every image, and print those that cannot be decoded.

    Raises:
        ShardError: There are any.
    """
    dataset = _Verdicts(folder, [DecodeImage()])
    loader = DataLoader(
        *(dataset, 32),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=interrupt.ignore,
    )
    failed, report = 0, tenths(print, "Decoded:")
    with interrupt.held_back():
        batches = iter(loader)
    for done, verdict in enumerate(chain.from_iterable(batches), 1):
        if verdict:
            print(verdict)
            failed += 1
        report(done, len(dataset))
    if failed:
        raise ShardError(
            f"{failed} of the {len(dataset)} images in '{folder}' cannot be decoded. "
            "The shards are complete; replace these images and convert again, or set "
            'on_error="skip" in the dataset to go on without them.'
        )


class _Verdicts(ImageShards):
    """Of each image, why it cannot be decoded; empty if it can."""

    def __getitem__(self, index: int) -> str:
        try:
            super().__getitem__(index)
        except UnreadableImageError as error:
            return str(error.__cause__)
        return ""


def read_size(text: str) -> int:
    """Return the number of bytes of e.g. ``500M`` or ``1.5G`` (powers of 1000)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.strip().upper())
    if match is None:
        raise ShardError(f"'{text}' is no size; write e.g. 500M or 1.5G.")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))


class _Writer:
    """Tar files of about equal size, one after the other."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.sizes: list[int] = []
        self._folder, self._limit = folder, limit
        self._stream: BinaryIO | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is None:
            self._finish()
        elif self._stream is not None:
            self._stream.close()

    def add(self, name: str, data: bytes, mtime: int) -> tuple[int, int]:
        """Append an image; return its shard and offset."""
        if self._stream is not None and self._stream.tell() >= self._limit:
            self._finish()
        if self._stream is None:
            path = self._folder / _shard_name(len(self.sizes))
            self._stream = path.open("wb", buffering=1 << 20)
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(data), mtime
        self._stream.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        offset = self._stream.tell()
        self._stream.write(data)
        self._stream.write(bytes(-len(data) % _BLOCK))
        return len(self.sizes), offset

    def _finish(self) -> None:
        if self._stream is None:
            return
        with self._stream as stream:
            # Two empty blocks end an archive; records of 20 blocks are tar's default.
            stream.write(bytes(2 * _BLOCK))
            stream.write(bytes(-stream.tell() % tarfile.RECORDSIZE))
            self.sizes.append(stream.tell())
            stream.flush()
            os.fsync(stream.fileno())  # before the index says that it is there
        self._stream = None


def _copy(
    source: SSLDataset, names: PackedPaths, writer: _Writer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return shard, offset and size of each image."""
    n = len(names)
    places = np.zeros(n, np.int32), np.zeros(n, np.int64), np.zeros(n, np.int64)
    report = tenths(print, "Copied:")
    for i, (data, mtime) in enumerate(_ahead(_read_file, _paths(source))):
        places[0][i], places[1][i] = writer.add(names[i], data, mtime)
        places[2][i] = len(data)
        report(i + 1, n)
    return places


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def _leftovers(out: Path) -> list[Path]:
    """What an interrupted conversion left behind; refuse to touch anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return []
    if (out / SHARD_INDEX).exists() or not (out / UNFINISHED).exists():
        holds = "complete shards" if (out / SHARD_INDEX).exists() else "something else"
        raise ShardError(
            f"'{out}' holds {holds} already, and is left as it is. Choose another."
        )
    return [path for path in out.iterdir() if _OWN_SHARD.fullmatch(path.name)]


def _checked_name(name: str, folder: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise ShardError(
            f"The list names '{shown(name)}', which is not below '{folder}'. Give "
            "the folder that holds all of its images."
        )
    return name


def _paths(source: SSLDataset) -> Iterator[str]:
    return (source.describe(row)["img_path"] for row in range(len(source)))


def _file_sizes(source: SSLDataset, folder: str) -> np.ndarray:
    """Size of each image; refuse what is no file before anything is written."""
    sizes = np.fromiter(_ahead(size_of, _paths(source)), np.int64, len(source))
    if absent := np.flatnonzero(sizes < 0).tolist():
        listing = some([source.name(i) for i in absent], 5, "'")
        raise ShardError(
            f"{len(absent)} of the {len(sizes)} images of '{folder}' are missing, or "
            f"no files: {listing}. Restore or delete them."
        )
    if (size := sizes.max()) > MAX_FILE_BYTES:
        path = source.describe(int(sizes.argmax()))["img_path"]
        raise _unreadable(path, too_large(int(size)))
    return sizes


def _read_file(path: str) -> tuple[bytes, int]:
    try:
        data, status = read_file(path)
    except (OSError, NoImageError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or error) from error
    return data, int(status.st_mtime)


def _unreadable(path: str, reason: object) -> ShardError:
    return ShardError(
        f"The image '{shown(path)}' cannot be read: {reason}. Restore or delete "
        "it and run the command again, which starts anew."
    )


def _check_space(out: Path, names: PackedPaths, size: np.ndarray, limit: int) -> None:
    lengths = np.diff(names.arrays()[1], prepend=0)
    blocks = 1 + 2 * (lengths > tarfile.LENGTH_NAME) + -(-size // _BLOCK)
    needed = int((blocks * _BLOCK + lengths + 40).sum())  # 40: index
    needed += (3 + needed // limit) * tarfile.RECORDSIZE  # ends of files, index
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ShardError(
            f"The shards need {format_bytes(needed)}, but the disk of '{out}' has only "
            f"{format_bytes(free)} free. Make room or choose another place."
        )


def _ahead(function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """``map`` by threads, a little ahead: a network's delays then overlap."""
    with ThreadPoolExecutor(8) as pool:
        waiting: deque[Future[_R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 32:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
