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
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader

from mmssl_ext import compat
from mmssl_ext.errors import LoaderError
from mmssl_ext.interrupt import held_back
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
_TorchAlone: Any
_TorchWorkers: Any
_TorchAlone, _TorchWorkers = compat.loader_iterators()


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
    if loader in _guarded:
        return loader
    _guarded.add(loader)
    if loader.num_workers > 0:
        loader.timeout = loader.timeout or TIMEOUT
        if _WAITS:
            loader.worker_init_fn = _InWorker(loader.worker_init_fn)
    if not compat.makes_own_iterators(loader):
        # No reference to itself: persistent workers end when the loader is dropped.
        compat.iterate_by(loader, functools.partial(_iterator, weakref.ref(loader)))
    return loader


def end_workers() -> None:
    """End the workers of all guarded loaders at once, also those that hang."""
    for iterator in list(_live):
        iterator.end()
    _live.clear()


class WorkerError(LoaderError):
    """A worker died, raised or does not answer; ``images`` are all it was to read."""

    def __init__(self, message: str, images: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.images = images


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


def _iterator(reference: weakref.ref[DataLoader]) -> Any:
    loader = reference()
    assert loader is not None
    if loader.num_workers == 0:
        return _Alone(loader)
    loader.check_worker_number_rationality()
    return _Workers(loader)


class _Agreed(compat.LoaderIterator):
    """An iterator all of whose ranks agree, batch by batch, on whether to go on."""

    key: int  # identity of the loader
    is_left: Callable[..., bool]

    def __next__(self) -> Any:
        signals = current()
        if signals is None or not signals.agree_on(self.key, self.yielded):
            return self.take()
        return signals.fetch(self.take, self.is_left)


class _Alone(_Agreed, _TorchAlone):
    """Iterator of a loader without workers."""

    def __init__(self, loader: DataLoader) -> None:
        super().__init__(loader)
        self.key = id(loader)
        self._ahead: list[Any] = []  # an index drawn, but not used yet

    def is_left(self) -> bool:
        if not self._ahead:
            with contextlib.suppress(StopIteration):
                self._ahead = [self.draw()]
        return bool(self._ahead)

    def next_index(self) -> Any:
        return self._ahead.pop() if self._ahead else self.draw()

    def take(self) -> Any:
        from mmssl_ext.datasets.transforms.decode import UnreadableImageError

        try:
            return super().take()
        except UnreadableImageError as error:
            raise LoaderError(f"The data loader failed to read a batch. {error}") from (
                error
            )


class _Workers(_Agreed, compat.WorkersIterator, _TorchWorkers):
    """Iterator of a loader with workers.

    torch raises in the middle of whatever the main thread does when a worker dies; here
    this happens only while a batch is waited for, so that no step is cut in two.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.key = id(loader)
        self._loader = weakref.ref(loader)
        self._failure: Exception | None = None
        self._unreadable = 0  # batches that cannot be had since a worker has died
        self._drawn: dict[int, Any] = {}  # what batches under way consist of
        context: Any = loader.multiprocessing_context or multiprocessing
        if context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # its start would let SIGTERM through
        with held_back(SIGNALS) if _WAITS else contextlib.nullcontext():
            super().__init__(loader)
        _live.add(self)

    def end(self) -> None:
        """Kill the workers."""
        self.kill(self._loader(), _SLICE)

    def is_left(self) -> bool:
        return bool(self.tasks) or self._failure is not None

    def take(self) -> Any:
        if self._failure is not None:
            raise self._failure
        return super().take()

    def begin(self, reset: Callable[[], None]) -> None:
        """Begin an epoch, whose first batches are sent to the workers."""
        self._drawn = {}
        try:
            reset()
        except Exception as error:
            if self not in _live:  # the first time
                raise
            self._failure = error  # where all ranks fetch, they can agree on it

    def next_index(self) -> Any:
        index = self.draw()
        for batch in [n for n in self._drawn if n < self.batch - 1]:
            del self._drawn[batch]
        self._drawn[self.next_task] = index
        return index

    def next_result(self) -> Any:
        """Wait for the next batch that is ready, in whatever order they come."""
        left = self.timeout
        while left > 0:
            dead = self._dead()
            try:
                return self._salvaged() if dead else self._awaited(min(_SLICE, left))
            except queue.Empty:
                if dead:
                    raise self._died() from None
            # Counted by tries: a suspended job must not run out of time.
            left -= _SLICE
            if not self.pins():
                raise RuntimeError("The thread that pins memory has ended.")
        raise self._silent()

    def _awaited(self, seconds: float) -> Any:
        # Meanwhile torch raises where a worker dies: a read that waits for the rest of
        # what a dead worker has begun to write would never end.
        try:
            self.heed_deaths(True)
            try:
                return self.results.get(timeout=seconds)
            finally:
                self.heed_deaths(False)
        except (RuntimeError, OSError, EOFError) as error:
            if not isinstance(error, RuntimeError):
                # The memory of this batch went with its worker, which may still end.
                self._unreadable += 1
                end = time.monotonic() + _SLICE
                while not self._dead() and time.monotonic() < end:
                    time.sleep(0.01)
            if self._dead():
                raise queue.Empty from None
            raise

    def _salvaged(self) -> Any:
        """Return a batch that is there although a worker has died."""
        found: queue.SimpleQueue = queue.SimpleQueue()

        def read() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    try:
                        found.put(self.results.get(timeout=_SLICE))
                        return
                    except (OSError, EOFError):  # its memory went with the worker
                        self._unreadable += 1

        # In a thread, because it may never end.
        threading.Thread(target=read, daemon=True).start()
        return found.get(timeout=3 * _SLICE)

    def _dead(self) -> list[int]:
        workers = enumerate(self.workers)
        return [n for n, x in workers if self.at_work[n] and not x.is_alive()]

    def _died(self) -> WorkerError:
        codes = {number: self.workers[number].exitcode or 0 for number in self._dead()}
        number = min(codes, key=lambda number: codes[number] == 0)
        code = codes[number]
        waiting = sorted(n for n, task in self.tasks.items() if task == (number,))
        how, advice = f"ended with exit code {code}", ""
        if code < 0:
            how = f"was killed by {_NAMES.get(-code, f'signal {-code}')}"
            advice = f" {_CAUSES.get(-code, '')}".rstrip()
        # The first ones may have been finished.
        batch = (waiting[self._unreadable :] or waiting or [None])[0]
        return self._error(number, f"{how} while it was to read", batch, advice)

    def _silent(self) -> WorkerError:
        number = self.tasks[self.batch][0] if self.batch in self.tasks else 0
        return self._error(
            number,
            f"has not answered for {self.timeout:g} s and was to read",
            self.batch,
            " Look whether these files can be read at all; where they are only slow, "
            "raise `timeout` of the loader.",
        )

    def raised(self, wrapped: Any, place: int) -> None:
        """Raise for an exception that came from a worker in place of its batch."""
        from mmssl_ext.datasets.transforms.decode import UnreadableImageError

        *words, number = wrapped.where.split()
        if "worker" not in words:  # of the thread that pins memory
            return
        text = wrapped.exc_msg.strip()
        if issubclass(wrapped.exc_type, (UnreadableImageError, ImageSizesError)):
            text = text.rpartition(f"{wrapped.exc_type.__name__}: ")[2]  # its sentence
        batch = place if self.in_order else None
        raise self._error(int(number), "failed to read", batch, f"\n{text}")

    def _error(
        self, number: int, what: str, batch: int | None, more: str
    ) -> WorkerError:
        name = f"Worker {number} (process {self.workers[number].pid})"
        text = f"{name} of the data loader {what}"
        if batch is None:
            return WorkerError(f"{text} a batch.{more}")
        images = _images(self.dataset, self._drawn.get(batch))
        listed = ", ".join(map(shown, images[:_LISTED]))
        if len(images) > _LISTED:
            listed += f" and {len(images) - _LISTED} more"
        # counted from 1, since the iteration over the loader began
        return WorkerError(f"{text} batch {batch + 1} ({listed}).{more}", images)


_guarded: weakref.WeakSet[DataLoader] = weakref.WeakSet()
_live: weakref.WeakSet[_Workers] = weakref.WeakSet()


def _images(dataset: Any, indices: Any) -> list[str]:
    """Return the paths of samples, or their numbers where the dataset has no paths."""

    def name(index: Any) -> str:
        try:
            return str(dataset.get_data_info(int(index))["img_path"])
        except Exception:  # an error must not hide the one that is being told
            return f"sample {index}"

    return list(map(name, indices if isinstance(indices, (list, tuple)) else [indices]))
