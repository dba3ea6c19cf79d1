"""Writing checkpoints: whole or not at all, and with a short pause of the training."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import logging
import os
import shutil
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import torch
from mmengine.logging import print_log

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.files import flush, sha256, sha256_on_disk

from .manifest import remove_manifest, write_manifest


def save_checkpoint_file(checkpoint: dict, path: str | Path) -> None:
    """Write a checkpoint; return when it is on the disk under its name.

    The tensors are streamed into a hidden file beside ``path``, which takes the place
    of ``path`` once it is complete. They are copied nowhere else; those of a device
    pass through the host one by one, and the file says that they lie on the CPU.

    Raises:
        CheckpointFileError: The disk or a limit did not allow it. What stood under
            ``path`` stands there still, and the hidden file is gone.
    """
    start_saving(checkpoint, path).finish()


def start_saving(
    checkpoint: dict,
    path: str | Path,
    then: Callable[[], object] = lambda: None,
    manifest: dict | None = None,
    verify: bool = False,
) -> Saving:
    """Write a checkpoint so far that its tensors may change; a thread does the rest.

    What the caller waits for is a copy into the kernel's page cache. The checksums are
    computed afterwards from the file.

    Args:
        checkpoint: Tensors and plain data.
        path: Of the file.
        then: Called in the thread when the file is complete.
        manifest: Facts for the manifest (see :func:`write_manifest`); ``None`` for a
            file without one.
        verify: Read the file back from the disk before it gets its name.

    Returns:
        The thread; its ``finish`` waits and raises what went wrong.

    Raises:
        CheckpointFileError: As in :func:`save_checkpoint_file`.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    size = sum(_storages(checkpoint).values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file, _for_later_checksums(), _as_if_on_host():
            _reserve(file.fileno(), size)
            torch.save(checkpoint, file)
            file.truncate()
        saving = Saving(draft, path, then, manifest, verify)
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
    """Completes a checkpoint file; the interpreter does not exit before it has.

    The steps are such that a kill or a power cut between any two of them leaves under
    ``path`` either the old or the new file, whole, with its own manifest or none.

    Args:
        draft: The file as far as it has been written.
        path: Its name to be.
        then: Called when it is on the disk under its name.
        manifest: Facts for the manifest, or None for a file without one.
        verify: Whether to read the draft back from the disk.
    """

    def __init__(
        self,
        draft: Path,
        path: Path,
        then: Callable[[], object],
        manifest: dict | None,
        verify: bool,
    ) -> None:
        super().__init__(name=f"saving {path.name}")
        self._draft, self._path, self._then = draft, path, then
        self._manifest, self._verify = manifest, verify
        self._error: Exception | None = None

    def run(self) -> None:
        """Complete, put in place, go on; keep and log the error."""
        try:
            self._complete()
            self._go_on()
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

    def _complete(self) -> None:
        size = self._draft.stat().st_size
        try:
            digest = (_fill_in_checksums if _CHECKSUMS_LATER else sha256)(self._draft)
            flush(self._draft)
            if self._verify and sha256_on_disk(self._draft) != digest:
                raise _altered(self._path)
            remove_manifest(self._path)  # of the file that this one replaces
            self._draft.replace(self._path)
            flush(self._path.parent)  # the new name itself
            if self._manifest is not None:
                write_manifest(self._path, digest, self._manifest)
        except OSError as error:
            raise _not_written(self._path, size, error) from error
        finally:
            with contextlib.suppress(OSError):
                self._draft.unlink()

    def _go_on(self) -> None:
        try:
            self._then()
        except OSError as error:
            raise CheckpointFileError(
                f"Checkpoint {self._path} is complete, but last_checkpoint could not "
                f"be changed or an older file not be removed: {error}. Mend this, then "
                f"go on with --resume {self._path}."
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


def _altered(path: Path) -> CheckpointFileError:
    return CheckpointFileError(
        f"Checkpoint {path} was not kept: the disk gave back other bytes than were "
        "written. Earlier checkpoints stand as they were. Have the disk checked, "
        "choose a work_dir on another one, and go on with --resume."
    )


def _storages(value: Any) -> dict[int, int]:
    """Sizes in bytes, by address, of the memory that tensors in nested data share."""
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided or value.is_meta:
            return {}
        storage = value.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    items: Any = value.values() if isinstance(value, dict) else value
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
    if allocate is None:
        return
    allocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if allocate(file, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(code, os.strerror(code))


# torch computes the checksums while it writes, which takes longer than the writing.
_CHECKSUMS_LATER = hasattr(torch.serialization, "set_crc32_options")


@contextlib.contextmanager
def _for_later_checksums() -> Iterator[None]:
    if not _CHECKSUMS_LATER:
        yield
        return
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _fill_in_checksums(path: Path) -> str:
    """Write the CRC-32 of every entry of a zip file where its format wants them.

    Returns:
        The SHA-256 of the file as it then is, computed on the way.
    """
    with zipfile.ZipFile(path) as archive:
        entries, start = archive.infolist(), archive.start_dir
    digest, done, place, rehash = hashlib.sha256(), 0, 0, False
    with path.open("r+b") as file:
        file.seek(start)
        directory = bytearray(file.read())
        for entry in entries:  # in the order of the file, as torch lists them
            file.seek(entry.header_offset + 26)
            begin = entry.header_offset + 30 + sum(struct.unpack("<2H", file.read(4)))
            file.seek(done)
            for block in _blocks(file, begin - done):
                digest.update(block)
            crc = 0
            for block in _blocks(file, entry.file_size):
                digest.update(block)
                crc = zlib.crc32(block, crc)
            done = file.tell()
            # behind the data, where the entry says so, or in the header before it
            behind = entry.flag_bits & 8
            file.seek(done + 4 if behind else entry.header_offset + 14)
            file.write(struct.pack("<I", crc))
            rehash |= not behind and crc != 0
            struct.pack_into("<I", directory, place + 16, crc)
            place += 46 + sum(struct.unpack_from("<3H", directory, place + 28))
        file.seek(done)
        for block in _blocks(file, start - done):
            digest.update(block)
        file.write(directory)
    digest.update(directory)
    return sha256(path) if rehash else digest.hexdigest()


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next bytes of a file, a million at a time."""
    while size > 0:
        block = file.read(min(size, 1 << 20))
        if not block:
            raise OSError(errno.EIO, "the draft has lost its end")
        size -= len(block)
        yield block


_as_host: ContextVar[bool] = ContextVar("_as_host", default=False)


@contextlib.contextmanager
def _as_if_on_host() -> Iterator[None]:
    """Let files name the CPU as the place of all tensors, as mmengine's copies do."""
    token = _as_host.set(True)
    try:
        yield
    finally:
        _as_host.reset(token)


def _host_tag(storage: Any) -> str | None:
    return "cpu" if _as_host.get() and storage.device.type != "meta" else None


# asked before torch's own, whose priorities begin at 10
torch.serialization.register_package(5, _host_tag, lambda storage, location: None)
