"""A disk that is full, over its quota or read-only: a sentence wherever it shows."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from .text import shown

#: No room, none by a quota, none by a limit of file sizes, and a read-only disk.
CODES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_IN_RUST = re.compile(r"\(os error (\d+)\)")  # as safetensors says it


def no_room(error: BaseException | None) -> OSError | None:
    """Return what says that there is no room: an error, or one that it comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in CODES:
            return error
        found = _IN_RUST.search(str(error))
        if found and int(found[1]) in CODES:
            return OSError(int(found[1]), os.strerror(int(found[1])))
        error = error.__cause__ or error.__context__
    return None


def told(error: OSError, again: str = "run the command again") -> str:
    """Say what could not be written, and how much room there is.

    Args:
        error: From :func:`no_room`.
        again: What to do when there is room.
    """
    place, free = shown(error.filename or "The output"), ""
    with contextlib.suppress(OSError, StopIteration):
        path = Path(error.filename or os.devnull).absolute()
        folder = next(x for x in (path, *path.parents) if x.is_dir())
        if error.filename:
            free = f"; {shutil.disk_usage(folder).free} bytes are free there"
    return (
        f"{place} could not be written: {error.strerror}{free}. Make room, raise the "
        f"limit or choose another folder, then {again}."
    )


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Let an error for want of room name this file, and not its draft or none."""
    try:
        yield
    except Exception as error:
        cause = no_room(error)
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def heed_log_files(logger: logging.Logger) -> None:
    """Let a log file that finds no room raise, where logging prints a traceback.

    A console that finds none stays silent; so does a thread beside the run.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.handleError = _heed(handler)  # type: ignore[method-assign]


class _heed:  # stands for a method
    def __init__(self, handler: logging.StreamHandler) -> None:
        self.path = getattr(handler, "baseFilename", None)
        self.otherwise = handler.handleError

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        cause = no_room(error)
        if cause is None:
            self.otherwise(record)
        elif self.path and threading.current_thread() is threading.main_thread():
            raise OSError(cause.errno, cause.strerror, self.path) from error


def flush_output() -> OSError | None:
    """Write what is still to be printed; forget it where there is no room.

    Python would end with a code of its own (120) otherwise.

    Returns:
        Why it could not be printed, None where it was.
    """
    failed = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            failed = failed or error
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
                stream.flush()
        except (AttributeError, ValueError):  # closed, or no stream at all
            pass
    return failed
