"""Reading images in the main process, watched as the workers of a loader are.

A disk of the network that is gone keeps whoever reads it in the system call, where no
handler of a signal runs. So a thread reads, and the main process waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from mmengine.dist import is_main_process

from mmssl_ext.datasets.look import warn_of_unread
from mmssl_ext.engine.resilience.loading import TIMEOUT
from mmssl_ext.engine.resilience.preemption import current
from mmssl_ext.errors import LoaderError

_T = TypeVar("_T")
_SLICE = 1.0  # seconds between two looks at the thread


def watched_read(read: Callable[[], _T], what: str, timeout: float = 0.0) -> _T:
    """Call a function that reads images; all ranks must do so.

    A signal that asks the run to stop ends the wait.

    Args:
        read: Called in a thread. What it raises is raised here.
        what: What it reads, for the message.
        timeout: Seconds that it may take; 0 for those of a loader.

    Raises:
        LoaderError: It takes longer.
    """
    watch = current()
    if watch is None:
        return _done(read, what, timeout).result()
    return watch.fetch(lambda: _done(read, what, timeout), lambda: True).result()


def look_at_loader(loader: Any, what: str) -> None:
    """Warn on rank 0 of what some images of a loader have beyond what is read.

    All ranks must call it.
    """

    def read() -> None:
        if is_main_process():
            warn_of_unread(loader.dataset)

    watched_read(read, what, loader.timeout)


def _done(read: Callable[[], _T], what: str, timeout: float) -> Future[_T]:
    """Call the function in a thread and wait for it."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(read())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # nothing waits for it at exit
    left = total = timeout or TIMEOUT
    while left > 0:
        if wait([future], min(_SLICE, left)).done:
            return future
        left -= _SLICE  # counted by tries, as in loading.py
    raise LoaderError(
        f"{what} could not be read within {total:g} s. Look whether the files can be "
        "read at all; where they are only slow, raise `timeout` of the loader."
    )
