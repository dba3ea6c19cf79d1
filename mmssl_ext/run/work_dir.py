"""The folder of a run: writable, and used by one run at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmssl_ext.engine.resilience.lock import Lock
from mmssl_ext.errors import UserError
from mmssl_ext.room import free_at

LOCK_FILE = "run.lock"

_ROOM = 64 * 1024  # bytes: a log of some steps


@contextlib.contextmanager
def hold(
    work_dir: str | Path, what: str = "work dir", option: str = "--work-dir"
) -> Iterator[None]:
    """Hold a folder for a training run, from before anything is built in it.

    ``run.lock`` is locked and names this process (see :class:`Lock`). It is free again
    when the process ends, in whatever way.

    Args:
        work_dir: The folder; it is made where it is missing.
        what: Name of such a folder for messages.
        option: What chooses another one.

    Raises:
        UserError: Another run uses the folder or it cannot be written.
    """
    check_writable(work_dir, what, option)
    with contextlib.ExitStack() as stack:
        try:
            lock = Lock(Path(work_dir) / LOCK_FILE, f"The {what} {work_dir}")
            stack.enter_context(lock.held())
        except OSError as error:  # the folder has changed in between
            raise not_writable(work_dir, error, what, option) from error
        yield


def check_writable(
    work_dir: str | Path, what: str = "work dir", option: str = "--work-dir"
) -> None:
    """Make the folder where it is missing and try to write a log's worth into it.

    Raises:
        UserError: It is read-only, full, or no folder.
    """
    probe = Path(work_dir) / f".writable.{os.getpid()}.tmp"
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("wb", buffering=0) as file:
                if file.write(b"\n" * _ROOM) < _ROOM:  # a disk that fills up at it
                    file.write(b"\n")
                os.fsync(file.fileno())  # quotas may speak up only now
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise not_writable(work_dir, error, what, option) from error


def not_writable(
    work_dir: str | Path,
    error: OSError,
    what: str = "work dir",
    option: str = "--work-dir",
) -> UserError:
    """Return the sentence about a folder that refused to be written."""
    return UserError(
        f"The {what} {work_dir} cannot be written: {error.strerror or error}"
        f"{free_at(work_dir)}. A run writes its log and checkpoints there: make room, "
        f"change the folder's owner or mode, or choose another by {option}."
    )
