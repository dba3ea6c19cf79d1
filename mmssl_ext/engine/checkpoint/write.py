"""Writing checkpoints: whole or not at all, and with a short pause of the training."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import shutil
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from mmengine.logging import print_log

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import flush, sha256, sha256_on_disk, write_text

from .manifest import remove_checkpoint, remove_manifest, write_manifest


def save_checkpoint_file(checkpoint: dict, path: str | Path) -> None:
    """Write a checkpoint (:func:`start_saving`); return when it is on the disk."""
    start_saving(checkpoint, path).finish()


def start_saving(
    checkpoint: dict,
    path: str | Path,
    manifest: dict | None = None,
    verify: bool = False,
    pointer: Path | None = None,
    outdated: Callable[[], Iterable[Path]] = tuple,
) -> Saving:
    """Write a checkpoint so far that its tensors may change; a thread does the rest.

    The tensors are streamed into a hidden file beside ``path``, that is into the
    kernel's page cache, and copied nowhere else. Those of a device pass through the
    host one by one, and the file says that they lie on the CPU.

    Args:
        checkpoint: Tensors and plain data.
        path: Of the file.
        manifest: Facts for the manifest (see :func:`write_manifest`); ``None`` for a
            file without one.
        verify: Read the file back from the disk before it gets its name.
        pointer: A file that is to name this one once it is complete.
        outdated: Returns checkpoints to delete after that.

    Returns:
        The thread; its ``finish`` waits and raises what went wrong.

    Raises:
        CheckpointFileError: The disk or a limit did not allow it. What stood under
            ``path`` stands there still, and the hidden file is gone.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    size = sum(_storages(checkpoint).values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file, _own_way_of_torch():
            _reserve(file.fileno(), size)
            torch.save(checkpoint, file)
            file.truncate()
        rest = partial(_complete, draft, path, manifest, verify, pointer, outdated)
        saving = Saving(path, rest)
        saving.start()
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        # torch's writer fails once more when it is closed, by a RuntimeError
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, OSError):
            raise _not_written(path, size, cause) from error
        raise
    return saving


class Saving(threading.Thread):
    """What is left to do of a save; the interpreter does not exit before it is done."""

    def __init__(self, path: Path, steps: Callable[[], None]) -> None:
        super().__init__(name=f"saving {path.name}")
        self._steps = steps
        self._error: Exception | None = None

    def run(self) -> None:
        """Do it; keep and log the error."""
        try:
            self._steps()
        except Exception as error:
            self._error = error
            print_log(str(error), logger="current", level=logging.ERROR)
            if isinstance(error, CheckpointFileError):
                error.logged = True

    def finish(self) -> None:
        """Wait until all is done; raise what went wrong."""
        self.join()
        if self._error is not None:
            raise self._error


def _complete(
    draft: Path,
    path: Path,
    manifest: dict | None,
    verify: bool,
    pointer: Path | None,
    outdated: Callable[[], Iterable[Path]],
) -> None:
    """Bring a draft to the disk, verify, name and describe it, point to it, prune.

    A kill or a power cut between any two steps leaves under ``path`` either the old or
    the new file, whole, with its own manifest or none, and a pointer to a whole file.
    """
    size = draft.stat().st_size
    try:
        if _CHECKSUMS_LATER:
            _fill_in_checksums(draft)
        digest = sha256(draft)
        flush(draft)
        if verify and sha256_on_disk(draft) != digest:
            raise CheckpointFileError(
                f"Checkpoint {path} was not kept: the disk gave back other bytes than "
                "were written. Earlier checkpoints stand as they were. Have the disk "
                "checked, choose a work_dir on another one, and go on with --resume."
            )
        remove_manifest(path)  # of the file that this one replaces
        draft.replace(path)
        flush(path.parent)  # the new name itself
        if manifest is not None:
            write_manifest(path, digest, manifest)
    except OSError as error:
        raise _not_written(path, size, error) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    try:
        if pointer is not None:
            write_text(pointer, str(path), durable=True)
        for old in outdated():
            if old.resolve() != path.resolve():
                remove_checkpoint(old)
    except OSError as error:
        raise CheckpointFileError(
            f"Checkpoint {path} is complete, but last_checkpoint could not be changed "
            f"or an older file not be removed: {error}. Fix this, then go on with "
            f"--resume {path}."
        ) from error


def wait_for_checkpoints() -> None:
    """Wait until every checkpoint that this process is writing is complete."""
    for thread in threading.enumerate():
        if isinstance(thread, Saving) and thread is not threading.current_thread():
            thread.join()


def _not_written(path: Path, size: int, error: OSError) -> CheckpointFileError:
    try:
        free = f"{shutil.disk_usage(path.parent).free} bytes are free there"
    except OSError:
        free = "that folder cannot be looked at"
    return CheckpointFileError(
        f"Checkpoint {path} was not written: {error.strerror or error} (it needs about "
        f"{size} bytes; {free}). Earlier checkpoints stand as they were. Make room, "
        "raise the limit or choose another folder, then go on with --resume."
    )


def _storages(value: Any) -> dict[int, int]:
    """Sizes in bytes, by address, of the memory that tensors in nested data share."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_meta:
            return {}
        storage = value.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    items = value.values() if isinstance(value, dict) else value
    found: dict[int, int] = {}
    if isinstance(value, (dict, list, tuple)):
        for item in items:
            found |= _storages(item)
    return found


def _reserve(file: int, size: int) -> None:
    """Take the room on the disk at once.

    Writing is then a third quicker, and a full disk is found before anything is
    written. ``os.posix_fallocate`` would write zeros where the file system cannot.
    """
    allocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if allocate is None:  # not Linux
        return
    allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if allocate(file, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(code, os.strerror(code))


# torch computes the checksums while it writes, which takes longer than the writing.
_CHECKSUMS_LATER = hasattr(torch.serialization, "set_crc32_options")
_as_host: ContextVar[bool] = ContextVar("_as_host", default=False)


@contextlib.contextmanager
def _own_way_of_torch() -> Iterator[None]:
    """Let torch leave the checksums out, and name the CPU as the place of all tensors.

    The latter is what mmengine reaches by copies.
    """
    before = _CHECKSUMS_LATER and torch.serialization.get_crc32_options()
    token = _as_host.set(True)
    try:
        if before:
            torch.serialization.set_crc32_options(False)
        yield
    finally:
        _as_host.reset(token)
        if before:
            torch.serialization.set_crc32_options(True)


def _host_tag(storage: Any) -> str | None:
    return "cpu" if _as_host.get() and storage.device.type != "meta" else None


# asked before torch's own, whose priorities begin at 10
torch.serialization.register_package(5, _host_tag, lambda storage, location: None)


def _fill_in_checksums(path: Path) -> None:
    """Write the CRC-32 of every entry of a zip file where its format wants them."""
    with zipfile.ZipFile(path) as archive:
        entries, start = archive.infolist(), archive.start_dir
    with path.open("r+b") as file:
        file.seek(start)
        directory, place = bytearray(file.read()), 0
        for entry in entries:  # in the order of the directory
            file.seek(entry.header_offset + 26)
            file.seek(sum(struct.unpack("<2H", file.read(4))), os.SEEK_CUR)
            crc = struct.pack("<I", _crc(file, entry.file_size))
            # behind the data, where the entry says so, or in the header before it
            behind = entry.flag_bits & 8
            file.seek(file.tell() + 4 if behind else entry.header_offset + 14)
            file.write(crc)
            directory[place + 16 : place + 20] = crc
            place += 46 + sum(struct.unpack_from("<3H", directory, place + 28))
        file.seek(start)
        file.write(directory)


def _crc(file: BinaryIO, size: int) -> int:
    """The checksum of the next bytes, which are read a million at a time."""
    crc = 0
    while block := file.read(min(size, 1 << 20)):
        crc, size = zlib.crc32(block, crc), size - len(block)
    return crc
