"""Files that no reader ever finds half written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import UserTypeError, UserValueError
from .room import writing
from .text import cut

MISSING = -1  # size of what is no file
#: File name endings of the formats that ``DecodeImage`` reads, for all entrances.
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".webp", ".gif"),
    *(".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
SHARD_INDEX = "index.npz"  # by which a folder of shards is known


def path_named(name: str, value: Any) -> str:
    """What was given as the path of a file or folder, as text.

    Args:
        name: Of what was given, for messages.
        value: Text or a path.

    Raises:
        UserTypeError: It is neither.
        UserValueError: It is empty, or holds a zero byte.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        hint = f" For a name of digits write './{value}'." if type(value) is int else ""
        raise UserTypeError(
            f"{name} is {cut(repr(value))}: it must be the path of a file or folder, "
            f"as text or pathlib's.{hint}"
        )
    if not text:
        raise UserValueError(f"{name} is empty: {value!r}. Name a file or folder.")
    if "\0" in text:
        raise UserValueError(f"{name} is {cut(repr(text))}: no path has a zero byte.")
    return text


def write_text(path: str | Path, text: str, durable: bool = False) -> None:
    """Write a text file in one step: whoever reads it sees the old or the new one.

    In UTF-8; the bytes of file names that are no UTF-8 stay what they are.
    """
    write_bytes(path, text.encode("utf-8", "surrogateescape"), durable)


def read_text(path: str | Path) -> str:
    """Read what :func:`write_text` has written."""
    return Path(path).read_text("utf-8", "surrogateescape")


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the dict in a JSON file, an empty one where there is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        text = json.dumps(found, ensure_ascii=False)
        text.encode("utf-8", "surrogateescape")  # or it cannot be written
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_bytes(path: str | Path, data: bytes, durable: bool = False) -> None:
    """Write a file in one step; where that fails, the old one stays.

    ``durable`` returns when it is on the disk, so that no power cut can undo it.
    """
    with drafted(path, durable) as draft:
        draft.write_bytes(data)


@contextlib.contextmanager
def drafted(path: str | Path, durable: bool = False) -> Iterator[Path]:
    """Yield the path of a draft, which takes the place of a file once it is written.

    Where writing fails or is interrupted, the old file stays and the draft goes.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            yield draft
            if durable:
                flush(draft)
            draft.replace(path)
            if durable:
                flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def utf8_path(path: str | Path) -> Iterator[str]:
    """A path of a file for readers in C++ and Rust, which take UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with Path(path).open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def size_of(path: str | Path) -> int:
    """Return the size of a regular file in bytes, -1 where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return MISSING
    return found.st_size if stat.S_ISREG(found.st_mode) else MISSING


def head_of(path: str | Path, most: int) -> bytes:
    """Return the first bytes of a regular file, none where it cannot be read."""
    if size_of(path) == MISSING:  # opening a pipe would wait for whoever writes
        return b""
    try:
        with open(path, "rb") as stream:
            return stream.read(most)
    except OSError:
        return b""


def flush(path: str | Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content."""
    with Path(path).open("rb") as stream:
        return _digest(iter(lambda: stream.read(1 << 20), b""))


def sha256_on_disk(path: str | Path) -> str:
    """Return the SHA-256 of what the disk holds of a file, not of the kernel's copy.

    The file must have been flushed. Where the file system reads only by way of that
    copy, the kernel is asked to forget it first, which is no more than a hint.
    """
    try:
        return _digest(_directly(path))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    if hasattr(os, "posix_fadvise"):
        with Path(path).open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sha256(path)


def _digest(blocks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def _directly(path: str | Path) -> Iterator[memoryview]:
    """Blocks of a file, past the page cache."""
    if not hasattr(os, "O_DIRECT"):
        raise OSError(errno.EINVAL, "not on this system")
    block = memoryview(mmap.mmap(-1, 1 << 20))  # aligned, as it must be
    opened = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with open(opened, "rb", buffering=0) as file:
        while size := file.readinto(block):
            yield block[:size]
