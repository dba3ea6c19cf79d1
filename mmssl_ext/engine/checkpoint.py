"""Checkpoints: written whole or not at all, read as tensors and plain data only."""

from __future__ import annotations

import _codecs
import contextlib
import ctypes
import errno
import importlib
import logging
import os
import pickle
import re
import shutil
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.utils import digit_version

from .errors import CheckpointFileError

HISTORY_LENGTH = 10_000  # logged values kept per scalar; smoothing windows are shorter


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for the ``getattr`` by which a stored history names its statistics."""
    if owner is HistoryBuffer and name in ("current", "max", "mean", "min"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"GLOBAL builtins.getattr of {owner!r}")


# What mmengine's own checkpoints hold besides tensors: the log's histories, with NumPy
# arrays and numbers. Restoring these runs no code of the file's.
_multiarray = importlib.import_module(np.ndarray.__reduce__(np.zeros(0))[0].__module__)
_HARMLESS: list[Any] = [
    HistoryBuffer,
    (_history_method, "builtins.getattr"),
    np.ndarray,
    np.dtype,
    _codecs.encode,
    *(
        (getattr(_multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for core in ("core", "_core")  # of NumPy 1 and 2
    ),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]


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
    checkpoint: dict, path: str | Path, then: Callable[[], object] = lambda: None
) -> Saving:
    """Write a checkpoint so far that its tensors may change; a thread does the rest.

    What the caller waits for is a copy into the kernel's page cache. The checksums are
    computed afterwards from the file.

    Args:
        checkpoint: Tensors and plain data.
        path: Of the file.
        then: Called in the thread when the file is complete.

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
        saving = Saving(draft, path, then)
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

    Args:
        draft: The file as far as it has been written.
        path: Its name to be.
        then: Called when it is on the disk under its name.
    """

    def __init__(self, draft: Path, path: Path, then: Callable[[], object]) -> None:
        super().__init__(name=f"saving {path.name}")
        self._draft, self._path, self._then = draft, path, then
        self._error: Exception | None = None

    def run(self) -> None:
        """Complete, put in place, go on; keep and log the error."""
        try:
            self._complete()
            self._then()
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
            if _CHECKSUMS_LATER:
                _fill_in_checksums(self._draft)
            _flush(self._draft)
            self._draft.replace(self._path)
            _flush(self._path.parent)  # the new name itself
        except OSError as error:
            raise _not_written(self._path, size, error) from error
        finally:
            with contextlib.suppress(OSError):
                self._draft.unlink()


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


def _flush(path: Path) -> None:
    """Bring a file or folder to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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


def _fill_in_checksums(path: Path) -> None:
    """Write the CRC-32 of every entry of a zip file where its format wants them."""
    with zipfile.ZipFile(path) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    with path.open("r+b") as file:
        for entry in entries:
            file.seek(entry.header_offset + 26)
            file.seek(sum(struct.unpack("<2H", file.read(4))), os.SEEK_CUR)
            crc, left = 0, entry.file_size
            while left:
                block = file.read(min(left, 1 << 20))
                if not block:
                    raise OSError(errno.EIO, f"{path} has lost its end")
                crc = zlib.crc32(block, crc)
                left -= len(block)
            # behind the data, where the entry says so, or in the header before it
            after = entry.flag_bits & 8
            file.seek(file.tell() + 4 if after else entry.header_offset + 14)
            file.write(struct.pack("<I", crc))
            file.seek(directory + 16)
            file.write(struct.pack("<I", crc))
            file.seek(directory + 28)
            directory += 46 + sum(struct.unpack("<3H", file.read(6)))


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


def load_checkpoint_file(path: str | Path) -> dict:
    """Read a checkpoint onto the host without running any code stored in it.

    The file is read with ``weights_only=True`` and never again without. The checksum
    of every entry is verified first, which ``torch.load`` does not do.

    Raises:
        CheckpointFileError: The file is missing, damaged or holds more than tensors and
            plain data; the message says which and what to do.
    """
    path = Path(path).expanduser()
    wait_for_checkpoints()
    if not path.is_file():
        raise CheckpointFileError(
            f"Checkpoint {path} does not exist. Give the path of a .pth file; a run "
            "keeps its own in its work_dir."
        )
    damaged = CheckpointFileError(
        f"Checkpoint {path} ({path.stat().st_size} bytes) is truncated or damaged. Use "
        "an earlier checkpoint, or copy the file again from where it came."
    )
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise damaged
        with _histories_allowed():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if not zipped and named is None:
            raise damaged from error
        what = f" ({named.group(1)})" if named else ""
        raise CheckpointFileError(
            f"Checkpoint {path} holds Python objects{what} besides tensors and plain "
            "data. Loading them could run code, so it was refused. If you trust its "
            "origin, load it once with torch.load(..., weights_only=False) in your own "
            "script and save its state_dict alone."
        ) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise damaged from error
    if not isinstance(checkpoint, dict):
        raise CheckpointFileError(
            f"Checkpoint {path} holds a {type(checkpoint).__name__}, not a dict of "
            "tensors; it was not written by this package."
        )
    return checkpoint


def _histories_allowed() -> AbstractContextManager:
    if digit_version(torch.__version__) < digit_version("2.6"):
        return nullcontext()  # has no names of our own choice for what is allowed
    return torch.serialization.safe_globals(_HARMLESS)


def find_resumable(work_dir: str | Path) -> tuple[Path | None, list[str]]:
    """Newest checkpoint of a run that can be read.

    Returns:
        Its path, or ``None`` where the folder holds no checkpoint, and one sentence for
        each newer file that had to be passed over.

    Raises:
        CheckpointFileError: There are checkpoints but none can be read.
    """
    work_dir = Path(work_dir)
    wait_for_checkpoints()
    files = [
        *work_dir.glob("epoch_*.pth"),
        *work_dir.glob("iter_*.pth"),
    ]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file():
        last = Path(pointer.read_text().strip())
        # The folder may have been moved since: then the file of that name in it counts.
        last = last if last.is_file() else work_dir / last.name
        if last.is_file():
            files = [last, *(file for file in files if not file.samefile(last))]
    passed_over = []
    for file in files:
        try:
            load_checkpoint_file(file)
        except CheckpointFileError as error:
            passed_over.append(str(error))
        else:
            return file, passed_over
    if passed_over:
        raise CheckpointFileError("\n".join(passed_over))
    return None, []


def to_plain(value: Any, dropped: list[str], where: str = "") -> Any:
    """Copy of nested data that holds only tensors and built-in types.

    Histories become dicts of tensors (see :func:`restore_histories`), NumPy scalars and
    arrays become numbers and tensors, sets become lists. Anything else is left out and
    its place appended to ``dropped``.
    """
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return value
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, HistoryBuffer):
        logs, counts = (
            torch.as_tensor(x)[-HISTORY_LENGTH:].clone() for x in value.data
        )
        return {"history": logs, "count": counts, "max_length": value.max_length}
    if isinstance(value, dict):
        kind = type(value)
        plain: Any = {} if kind.__name__ != "OrderedDict" else kind()
        for key, item in value.items():
            place = f"{where}.{key}" if where else str(key)
            count = len(dropped)
            result = to_plain(item, dropped, place)
            if len(dropped) == count or dropped[-1] != place:
                plain[to_plain(key, dropped, place)] = result
        if hasattr(value, "_metadata"):  # module versions beside a state_dict
            plain._metadata = to_plain(dict(value._metadata), dropped, where)
        return plain
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [
            to_plain(item, dropped, f"{where}[{i}]") for i, item in enumerate(value)
        ]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value).__module__ == "numpy":
        plain = value.tolist()
        if not isinstance(plain, list):
            return plain
        numeric = value.dtype.kind in "biuf"
        return torch.from_numpy(value.copy()) if numeric else plain
    for builtin in (str, bool, int, float):  # subclasses, e.g. enums and paths of str
        if isinstance(value, builtin):
            return builtin(value)
    if isinstance(value, Path):
        return str(value)
    dropped.append(where)
    return None


def restore_histories(log_scalars: dict) -> None:
    """Turn what :func:`to_plain` made of histories back, in place."""
    for key, value in log_scalars.items():
        if isinstance(value, dict) and "history" in value:
            log_scalars[key] = HistoryBuffer(
                value["history"].tolist(), value["count"].tolist(), value["max_length"]
            )
