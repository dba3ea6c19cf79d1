"""The folder of a run: writable, and used by one run at a time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from .agreement import share
from .errors import UserError
from .lock import Lock

LOCK_FILE = "run.lock"

_ROOM = 64 * 1024  # bytes: a log of some steps


@contextlib.contextmanager
def occupied(work_dir: str | Path) -> Iterator[None]:
    """Hold the folder for a training run, from before anything is built in it.

    Rank 0 writes ``run.lock``; the other ranks wait for what it found. A lock that a
    killed run left is taken over on its host. On another host nobody can see whether
    the run lives: there the user deletes the file, as the message says, unless it is
    the same Slurm job requeued or the same torchrun restarted (see :class:`Lock`).

    Raises:
        UserError: On all ranks, where another run uses the folder or it cannot be
            written.
    """
    work_dir = Path(work_dir)
    with contextlib.ExitStack() as stack:

        def take() -> str | None:
            try:
                check_writable(work_dir)
                lock = Lock(work_dir / LOCK_FILE, f"The work dir {work_dir}")
                stack.enter_context(lock.held())
            except OSError as error:  # the folder has changed in between
                return str(_not_writable(work_dir, error))
            except UserError as error:
                return str(error)
            return None

        if (refusal := share(take)) is not None:
            raise UserError(refusal)
        yield


def check_writable(work_dir: str | Path) -> None:
    """Make the folder where it is missing and try to write a log's worth into it.

    Raises:
        UserError: It is read-only, full, or no folder.
    """
    work_dir = Path(work_dir)
    probe = work_dir / f".writable.{os.getpid()}.tmp"
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        try:
            with probe.open("wb", buffering=0) as file:
                if file.write(b"\n" * _ROOM) < _ROOM:  # a disk that fills up at it
                    file.write(b"\n")
                os.fsync(file.fileno())  # quotas may speak up only now
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(work_dir, error) from error


def _not_writable(work_dir: Path, error: OSError) -> UserError:
    try:
        existing = next(path for path in (work_dir, *work_dir.parents) if path.exists())
        room = f"; {shutil.disk_usage(existing).free} bytes are free there"
    except (OSError, StopIteration):
        room = ""
    return UserError(
        f"The work dir {work_dir} cannot be written: {error.strerror or error}{room}. "
        "A run writes its log and checkpoints there: make room, change the folder's "
        "owner or mode, or choose another by --work-dir."
    )
