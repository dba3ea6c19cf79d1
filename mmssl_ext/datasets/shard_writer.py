"""The converter to shards, by ``tools/make_shards.py``; see :mod:`.shards`."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mmssl_ext import interrupt
from mmssl_ext.files import write_text
from mmssl_ext.room import no_room, told
from mmssl_ext.text import shown

from .account import format_bytes
from .base import SSLDataset
from .folder import ImageFolder, ImageList
from .listing import PackedPaths
from .look import warn_of_unread
from .progress import progress_of
from .reading import MAX_FILE_BYTES, NoImageError, read_file, too_large
from .shard_index import number_of_tops
from .shards import (
    INDEX,
    UNFINISHED,
    ImageShards,
    ShardError,
    ShardIndex,
)
from .transforms.decode import DecodeImage, UnreadableImageError
from .walk import class_folders

_OWN_SHARD = re.compile(r"shard-\d{5,}\.tar")
_T = TypeVar("_T")
_R = TypeVar("_R")


def make_shards(
    folder: str,
    out: str,
    list_file: str | None = None,
    shard_size: int = 10**9,
) -> ShardIndex:
    """Copy the images of a folder into shards.

    The same files give the same bytes.

    Args:
        folder: See :class:`ImageFolder`.
        out: New or empty folder, or one where a conversion was interrupted.
        list_file: Only the images of this list, in its order and with its labels; see
            :class:`ImageList`. Its paths start from ``folder``.
        shard_size: Bytes after which the next shard begins.

    Returns:
        The index.

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
    names = PackedPaths(_checked_names(source, folder))
    size = _file_sizes(source, folder)
    warn_of_unread(source)
    for path in leftovers:
        path.unlink()
    _check_space(target, names, size, shard_size)
    n = len(names)
    shard, offset = np.zeros(n, np.int32), np.zeros(n, np.int64)
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_text(
            target / UNFINISHED,
            f"Shards of {folder} are being written here. If no conversion is running, "
            "it was interrupted: start it again, and it begins anew.\n",
        )
        with (
            progress_of("Copied", n) as progress,
            _Writer(target, shard_size) as writer,
        ):
            paths = (_path(source, row) for row in range(n))
            for i, (data, mtime) in enumerate(_ahead(_read_file, paths)):
                shard[i], offset[i] = writer.add(names[i], data, mtime)
                size[i] = len(data)
                progress(i + 1)
        labels, labels_from, classes = _labels(source, names, folder)
        index = ShardIndex(
            *(names, shard, offset, size, labels, labels_from, PackedPaths(classes)),
            PackedPaths(_shard_name(i) for i in range(len(writer.sizes))),
            np.array(writer.sizes, np.int64),
        )
        index.write(target)
        (target / UNFINISHED).unlink()
    except OSError as error:
        if (cause := no_room(error)) is not None:
            found = OSError(cause.errno, cause.strerror, str(target / UNFINISHED))
            raise ShardError(
                f"The shards cannot be written: {told(found)} It starts anew."
            ) from error
        raise ShardError(
            f"The shards cannot be written to '{out}': {error}. Mend this and run the "
            "command again, which starts anew."
        ) from error
    return index


def verify_shards(folder: str, workers: int = 0) -> None:
    """Decode every image, and print those that cannot be decoded.

    Raises:
        ShardError: There are any.
    """
    dataset = ImageShards(folder, [DecodeImage()])
    loader = DataLoader(
        *(_Verdicts(dataset), 32),
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=interrupt.ignore,
    )
    failed = 0
    with interrupt.held_back():
        batches = iter(loader)
    with progress_of("Decoded", len(dataset)) as progress:
        for batch, verdicts in enumerate(batches, 1):
            for verdict in filter(None, verdicts):
                print(verdict)
                failed += 1
            progress(min(32 * batch, len(dataset)))
    if failed:
        raise ShardError(
            f"{failed} of the {len(dataset)} images in '{folder}' cannot be decoded. "
            "The shards are complete; replace these images and convert again, or set "
            'on_error="skip" in the dataset to go on without them.'
        )


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
        self._stream.write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return len(self.sizes), offset

    def _finish(self) -> None:
        if self._stream is None:
            return
        with self._stream as stream:
            # Two empty blocks end an archive; records of 20 blocks are tar's default.
            stream.write(bytes(2 * tarfile.BLOCKSIZE))
            stream.write(bytes(-stream.tell() % tarfile.RECORDSIZE))
            self.sizes.append(stream.tell())
            stream.flush()
            os.fsync(stream.fileno())  # before the index says that it is there
        self._stream = None


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}.tar"


def _leftovers(out: Path) -> list[Path]:
    """What an interrupted conversion left behind; refuse to touch anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return []
    if (out / INDEX).exists():
        raise ShardError(
            f"'{out}' holds complete shards already. Use them, delete the folder, or "
            "choose another."
        )
    if not (out / UNFINISHED).exists():
        raise ShardError(
            f"'{out}' is no folder of shards and not empty. Choose another; this one "
            "is left as it is."
        )
    return [path for path in out.iterdir() if _OWN_SHARD.fullmatch(path.name)]


def _path(source: SSLDataset, row: int) -> str:
    return source.describe(row)["img_path"]


def _checked_names(source: SSLDataset, folder: str) -> Iterator[str]:
    for row in range(len(source)):
        name = source.name(row)
        if name.startswith("/") or ".." in name.split("/"):
            raise ShardError(
                f"The list names '{shown(name)}', which is not below '{folder}'. Give "
                "the folder that holds all of its images."
            )
        yield name


def _file_sizes(source: SSLDataset, folder: str) -> np.ndarray:
    """Size of each image; refuse what is no file before anything is written."""
    n = len(source)
    sizes, paths = np.zeros(n, np.int64), (_path(source, row) for row in range(n))
    with progress_of("Looked at", n) as progress:
        for i, size in enumerate(_ahead(_file_size, paths)):
            sizes[i] = size
            progress(i + 1)
    if absent := np.flatnonzero(sizes < 0).tolist():
        listing = ", ".join(f"'{source.name(i)}'" for i in absent[:5])
        raise ShardError(
            f"{len(absent)} of the {n} images of '{folder}' are missing, or no files: "
            f"{listing}{', ...' if len(absent) > 5 else ''}. Restore or delete them."
        )
    for i in np.flatnonzero(sizes > MAX_FILE_BYTES)[:1].tolist():
        raise _unreadable(_path(source, i), too_large(int(sizes[i])))
    return sizes


def _file_size(path: str) -> int:
    try:
        status = os.stat(path)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _read_file(path: str) -> tuple[bytes, int]:
    try:
        data, status = read_file(path)
    except OSError as error:
        raise _unreadable(path, str(error.strerror)) from error
    except NoImageError as error:
        raise _unreadable(path, str(error)) from error
    return data, int(status.st_mtime)


def _unreadable(path: str, reason: str) -> ShardError:
    return ShardError(
        f"The image '{shown(path)}' cannot be read: {reason}. Restore or delete "
        "it and run the command again, which starts anew."
    )


def _check_space(out: Path, names: PackedPaths, size: np.ndarray, limit: int) -> None:
    lengths = np.diff(names.arrays()[1], prepend=0)
    blocks = 1 + 2 * (lengths > tarfile.LENGTH_NAME) + -(-size // tarfile.BLOCKSIZE)
    needed = int((blocks * tarfile.BLOCKSIZE + lengths + 40).sum())  # 40: index
    needed += (3 + needed // limit) * tarfile.RECORDSIZE  # ends of files, index
    existing = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ShardError(
            f"The shards need {format_bytes(needed)}, but the disk of '{out}' has only "
            f"{format_bytes(free)} free. Make room or choose another place."
        )


def _labels(
    source: SSLDataset, names: PackedPaths, folder: str
) -> tuple[np.ndarray, str, Sequence[str]]:
    """Return labels, where they come from, and class names."""
    if source.labels is not None:
        return source.labels.astype(np.int32), "list", source.metainfo["classes"]
    classes = class_folders(folder)
    return number_of_tops(names, classes), "subfolders", classes


class _Verdicts(Dataset):
    """Of each image of a dataset, why it cannot be decoded; empty if it can."""

    def __init__(self, dataset: SSLDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> str:
        try:
            self.dataset[index]
        except UnreadableImageError as error:
            return str(error.__cause__)
        return ""


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
