"""A disk that is full, over its quota or read-only: a sentence wherever it shows."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
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
    """Say what could not be written, how much room there is, and what to do then."""
    free = free_at(error.filename) if error.filename else ""
    return (
        f"{shown(error.filename or 'The output')} could not be written: "
        f"{error.strerror}{free}. Make room, raise the limit or choose another folder, "
        f"then {again}."
    )


def free_at(path: str | Path) -> str:
    """Part of a sentence: the bytes free where a file is or would be, if known."""
    with contextlib.suppress(OSError, StopIteration):
        path = Path(path).absolute()
        folder = next(x for x in (path, *path.parents) if x.is_dir())
        return f"; {shutil.disk_usage(folder).free} bytes are free there"
    return ""


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
            path = getattr(handler, "baseFilename", None)
            handler.handleError = functools.partial(  # type: ignore[method-assign]
                _raise_for_room, path, handler.handleError
            )


def _raise_for_room(
    path: str | None,
    otherwise: Callable[[logging.LogRecord], None],
    record: logging.LogRecord,
) -> None:
    error = sys.exc_info()[1]
    cause = no_room(error)
    if cause is None:
        otherwise(record)
    elif path and threading.current_thread() is threading.main_thread():
        raise OSError(cause.errno, cause.strerror, path) from error


def discard(stream: int) -> None:
    """Send what is still written to this file descriptor nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)


def flush_output() -> OSError | None:
    """Write what is still to be printed; forget it where there is no room, return why.

    Python would end with a code of its own (120) otherwise.
    """
    failed = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            failed = failed or error
            with contextlib.suppress(OSError, ValueError):
                discard(stream.fileno())
                stream.flush()
        except (AttributeError, ValueError):  # closed, or no stream at all
            pass
    return failed
