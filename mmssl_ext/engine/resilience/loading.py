"""Workers of data loaders: signals, and faults that name the worker."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from typing import Any

from torch._C import _remove_worker_pids, _set_worker_pids
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import (
    _BaseDataLoaderIter,
    _MultiProcessingDataLoaderIter,
    _SingleProcessDataLoaderIter,
)

from mmssl_ext.errors import LoaderError
from mmssl_ext.text import shown

from .collating import ImageSizesError
from .preemption import SIGNALS, current

TIMEOUT = 600.0  # seconds that a batch may take, unless the loader's own `timeout` says

_SLICE = 1.0  # seconds between two looks at the workers
_LISTED = 4  # images that a message names
_ORPHANED = 5.0  # seconds until a worker notices that its parent is gone
_WAITS = hasattr(signal, "sigtimedwait")  # not on macOS
_NAMES = {number.value: number.name for number in signal.Signals}
_CAUSES = {
    signal.SIGKILL.value: "The system does this where memory runs out: fewer workers "
    "(num_workers) or a smaller prefetch_factor need less.",
    signal.SIGBUS.value: "This happens where shared memory (/dev/shm) is full: give it "
    "more, or take fewer workers (num_workers).",
}


def guard_workers(loader: DataLoader) -> DataLoader:
    """Watch the workers of a loader, and let a run stop while it waits for a batch.

    The loader stays what it is. Its workers ignore the signals that stop a run unless
    its own process sends them, so the whole process group can be told to stop, and end
    with their parent. A worker that dies, raises or does not answer for ``timeout``
    seconds (600 where the loader sets none) gives an error that names it, its batch and
    images. A dead worker is noticed where the next batch is fetched, never in between.

    Returns:
        The loader.
    """
    if "_get_iterator" in vars(loader):
        return loader
    if loader.num_workers > 0:
        loader.timeout = loader.timeout or TIMEOUT
        if _WAITS:
            loader.worker_init_fn = _InWorker(loader.worker_init_fn)
    if type(loader)._get_iterator is DataLoader._get_iterator:
        # No reference to itself: persistent workers end when the loader is dropped.
        reference = weakref.ref(loader)
        loader._get_iterator = lambda: _iterator(reference())  # type: ignore
    return loader


def end_workers() -> None:
    """End the workers of all guarded loaders at once, also those that hang."""
    for iterator in list(_live):
        iterator.abandon()
    _live.clear()


class WorkerError(LoaderError):
    """A worker died, raised or does not answer.

    Attributes:
        images: What it was to read, all of it.
    """

    def __init__(self, message: str, images: list[str] | None = None) -> None:
        super().__init__(message)
        self.images = images or []


class _InWorker:
    """Called in a new worker, before what the loader itself wants called there."""

    def __init__(self, then: Callable[[int], Any] | None) -> None:
        self.then = then

    def __call__(self, worker_id: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_heed_parent, daemon=True).start()
        sys.excepthook = functools.partial(_unless_hung_up, sys.excepthook)
        if self.then is not None:
            self.then(worker_id)


def _unless_hung_up(
    otherwise: Callable, kind: type[BaseException], error: BaseException, tb: Any
) -> None:
    """Let nobody read of a batch that the parent, told to stop, no longer took.

    The thread that hands out the memory of batches reports its errors here.
    """
    if not issubclass(kind, (EOFError, OSError)):
        otherwise(kind, error, tb)


def _heed_parent() -> None:
    """End this worker when its parent says so or is gone."""
    creator = multiprocessing.parent_process()
    parent = os.getppid()  # the fork server, where there is one
    # The creator may be gone before this line, and `parent` be who adopted the worker.
    while os.getppid() == parent and (creator is None or creator.is_alive()):
        found = signal.sigtimedwait(SIGNALS, _ORPHANED)
        if found is None or found.si_signo != signal.SIGTERM:
            continue
        if creator is None or found.si_pid in (parent, creator.pid):
            break
    os._exit(0)


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Let processes that are started meanwhile begin with our signals blocked."""
    if not _WAITS:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _iterator(loader: DataLoader | None) -> _BaseDataLoaderIter:
    assert loader is not None
    if loader.num_workers == 0:
        return _Alone(loader)
    loader.check_worker_number_rationality()
    return _Workers(loader)


class _Alone(_SingleProcessDataLoaderIter):
    """Iterator of a loader without workers."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader)
        self._key = id(loader)
        self._ahead: list[Any] = []  # an index drawn, but not used yet

    def __next__(self) -> Any:
        watch = current()
        if watch is None or not watch.polls(self._key, self._num_yielded):
            return self._take()
        return watch.fetch(self._take, self._is_left)

    def _is_left(self) -> bool:
        if not self._ahead:
            with contextlib.suppress(StopIteration):
                self._ahead = [super()._next_index()]
        return bool(self._ahead)

    def _next_index(self) -> Any:
        return self._ahead.pop() if self._ahead else super()._next_index()

    def _take(self) -> Any:
        from mmssl_ext.datasets.transforms.decode import UnreadableImageError

        try:
            return super().__next__()
        except UnreadableImageError as error:
            raise LoaderError(f"The data loader failed to read a batch. {error}") from (
                error
            )


class _Workers(_MultiProcessingDataLoaderIter):
    """Iterator of a loader with workers.

    torch raises in the middle of whatever the main thread does when a worker dies; here
    this happens only while a batch is waited for, so that no step is cut in two.
    """

    def __init__(self, loader: DataLoader) -> None:
        self._key = id(loader)
        self._loader = weakref.ref(loader)
        self._failure: Exception | None = None
        self._unreadable = 0  # batches that cannot be had since a worker has died
        self._drawn: dict[int, Any] = {}  # what batches under way consist of
        context: Any = loader.multiprocessing_context or multiprocessing
        if context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # its start would let SIGTERM through
        with _held_back():
            super().__init__(loader)
        _remove_worker_pids(id(self))
        self._worker_pids_set = False
        _live.add(self)

    def __next__(self) -> Any:
        watch = current()
        if watch is None or not watch.polls(self._key, self._num_yielded):
            return self._take()
        return watch.fetch(self._take, self._is_left)

    def abandon(self) -> None:
        """Kill the workers; wait for nothing that might not come."""
        self._shutdown = True  # so that __del__ does not wait either
        with contextlib.suppress(ValueError):
            _remove_worker_pids(id(self))
        workers = getattr(self, "_workers", ())
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(_SLICE)
        if (pinning := getattr(self, "_pin_memory_thread", None)) is not None:
            self._pin_memory_thread_done_event.set()
            self._worker_result_queue.cancel_join_thread()
            self._worker_result_queue.put((None, None))  # wakes it
            pinning.join(_SLICE)
        loader = self._loader()
        if loader is not None and loader._iterator is self:
            loader._iterator = None  # the next iteration starts new workers

    def _is_left(self) -> bool:
        return bool(self._task_info) or self._failure is not None

    def _take(self) -> Any:
        if self._failure is not None:
            raise self._failure
        return super().__next__()

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        self._drawn = {}
        try:
            super()._reset(loader, first_iter)
        except Exception as error:
            if first_iter:
                raise
            self._failure = error  # where all ranks fetch, they can agree on it

    def _next_index(self) -> Any:
        index = super()._next_index()
        for batch in [n for n in self._drawn if n < self._rcvd_idx - 1]:
            del self._drawn[batch]
        self._drawn[self._send_idx] = index
        return index

    def _get_data(self) -> Any:
        """Wait for the next batch that is ready, in whatever order they come."""
        left = self._timeout
        while left > 0:
            dead = self._has_dead()
            try:
                return self._salvaged() if dead else self._awaited(min(_SLICE, left))
            except queue.Empty:
                if dead:
                    raise self._died() from None
            # Counted by tries: a suspended job must not run out of time.
            left -= _SLICE
            if self._pin_memory and not self._pin_memory_thread.is_alive():
                raise RuntimeError("The thread that pins memory has ended.")
        raise self._silent()

    def _awaited(self, seconds: float) -> Any:
        # Meanwhile torch raises where a worker dies: a read that waits for the rest of
        # what a dead worker has begun to write would never end.
        try:
            _set_worker_pids(id(self), tuple(int(x.pid or 0) for x in self._workers))
            try:
                return self._data_queue.get(timeout=seconds)
            finally:
                _remove_worker_pids(id(self))
        except (RuntimeError, OSError, EOFError) as error:
            if not isinstance(error, RuntimeError):
                # The memory of this batch went with its worker, which may still end.
                self._unreadable += 1
                end = time.monotonic() + _SLICE
                while not self._has_dead() and time.monotonic() < end:
                    time.sleep(0.01)
            if self._has_dead():
                raise queue.Empty from None
            raise

    def _salvaged(self) -> Any:
        """Return a batch that is there although a worker has died."""
        found: queue.SimpleQueue = queue.SimpleQueue()

        def read() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    try:
                        found.put(self._data_queue.get(timeout=_SLICE))
                        return
                    except (OSError, EOFError):  # its memory went with the worker
                        self._unreadable += 1

        # In a thread, because it may never end.
        threading.Thread(target=read, daemon=True).start()
        return found.get(timeout=3 * _SLICE)

    def _process_data(self, data: Any, *args: Any) -> Any:
        if isinstance(data, ExceptionWrapper):
            where = data.where.split()
            if where[-1].isdigit() and "worker" in where:
                raise self._raised(int(where[-1]), data)
        return super()._process_data(data, *args)

    def _has_dead(self) -> bool:
        workers = zip(self._workers_status, self._workers, strict=True)
        return any(at_work and not worker.is_alive() for at_work, worker in workers)

    def _died(self) -> WorkerError:
        dead = []
        for number, worker in enumerate(self._workers):
            if self._workers_status[number] and not worker.is_alive():
                waiting = [n for n, x in self._task_info.items() if x == (number,)]
                dead.append((worker.exitcode == 0, number, sorted(waiting)))
        _, number, waiting = min(dead)
        code = self._workers[number].exitcode or 0
        how, advice = f"ended with exit code {code}", ""
        if code < 0:
            how = f"was killed by {_NAMES.get(-code, f'signal {-code}')}"
            advice = f" {_CAUSES.get(-code, '')}".rstrip()
        # The first ones may have been finished.
        batch = (waiting[self._unreadable :] or waiting or [None])[0]
        return self._error(number, f"{how} while it was to read", batch, advice)

    def _silent(self) -> WorkerError:
        batch = self._rcvd_idx
        number = self._task_info[batch][0] if batch in self._task_info else 0
        return self._error(
            number,
            f"has not answered for {self._timeout:g} s and was to read",
            batch,
            " Look whether these files can be read at all; where they are only slow, "
            "raise `timeout` of the loader.",
        )

    def _raised(self, number: int, wrapped: Any) -> WorkerError:
        from mmssl_ext.datasets.transforms.decode import UnreadableImageError

        text = wrapped.exc_msg.strip()
        if issubclass(wrapped.exc_type, (UnreadableImageError, ImageSizesError)):
            text = text.rpartition(f"{wrapped.exc_type.__name__}: ")[2]  # its sentence
        in_order = getattr(self, "_in_order", True)
        batch = self._rcvd_idx - 1 if in_order else None
        return self._error(number, "failed to read", batch, f"\n{text}")

    def _error(
        self, number: int, what: str, batch: int | None, more: str
    ) -> WorkerError:
        name = f"Worker {number} (process {self._workers[number].pid})"
        text = f"{name} of the data loader {what}"
        if batch is None:
            return WorkerError(f"{text} a batch.{more}")
        images = _images(self._dataset, self._drawn.get(batch))
        listed = ", ".join(map(shown, images[:_LISTED]))
        if len(images) > _LISTED:
            listed += f" and {len(images) - _LISTED} more"
        # counted from 1, since the iteration over the loader began
        return WorkerError(f"{text} batch {batch + 1} ({listed}).{more}", images)


_live: weakref.WeakSet[_Workers] = weakref.WeakSet()


def _images(dataset: Any, indices: Any) -> list[str]:
    """Return the paths of samples, or their numbers where the dataset has no paths."""
    names = []
    for index in indices if isinstance(indices, (list, tuple)) else [indices]:
        try:
            names.append(str(dataset.get_data_info(int(index))["img_path"]))
        except Exception:  # an error must not hide the one that is being told
            names.append(f"sample {index}")
    return names
