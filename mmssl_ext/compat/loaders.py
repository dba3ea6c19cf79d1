"""Of torch's DataLoader and its iterators."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

# -- torch's DataLoader --
# Its iterators know the workers and the batches under way; no public name tells them.
# torch 2.4 has no `_in_order`. Gone: AttributeError where the first iterator is made.


def loader_iterators() -> tuple[Any, Any]:
    """Iterators of torch for a loader without and with workers, to derive from.

    :class:`LoaderIterator` and :class:`WorkersIterator` go before them.
    """
    from torch.utils.data import dataloader

    return (
        dataloader._SingleProcessDataLoaderIter,
        dataloader._MultiProcessingDataLoaderIter,
    )


def makes_own_iterators(loader: Any) -> bool:
    """Whether a loader, or its class, makes other iterators than torch's do."""
    from torch.utils.data import DataLoader

    replaced = "_get_iterator" in vars(loader)
    return replaced or type(loader)._get_iterator is not DataLoader._get_iterator


def iterate_by(loader: Any, make: Callable[[], Any]) -> None:
    """Let ``make()`` make the iterators of a loader."""
    loader._get_iterator = make


_Beside: Any = object  # torch's class, which is imported only where it is needed


class LoaderIterator(_Beside):
    """Public names for what an iterator of torch does and knows."""

    yielded = property(attrgetter("_num_yielded"))

    def take(self) -> Any:
        """Return the next batch, as torch does."""
        return super().__next__()

    def draw(self) -> Any:
        """Return what the sampler gives for the next batch."""
        return super()._next_index()

    def _next_index(self) -> Any:
        return self.next_index()


class WorkersIterator(LoaderIterator):
    """Further ones, of an iterator with workers."""

    workers = property(attrgetter("_workers"))
    at_work = property(attrgetter("_workers_status"))  # a flag for each worker
    tasks = property(attrgetter("_task_info"))  # batch: worker, and data once there
    batch = property(attrgetter("_rcvd_idx"))  # the next one to be handed out
    next_task = property(attrgetter("_send_idx"))  # the next one for a worker
    results = property(attrgetter("_data_queue"))
    timeout = property(attrgetter("_timeout"))
    dataset = property(attrgetter("_dataset"))
    in_order = property(lambda self: getattr(self, "_in_order", True))

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.heed_deaths(False)
        self._worker_pids_set = False

    def heed_deaths(self, heed: bool) -> None:
        """Let torch raise in the main thread, wherever it is, when a worker dies."""
        from torch._C import _remove_worker_pids, _set_worker_pids

        if heed:
            _set_worker_pids(id(self), tuple(int(x.pid or 0) for x in self._workers))
        else:
            with contextlib.suppress(ValueError):  # not heeded either way
                _remove_worker_pids(id(self))

    def pins(self) -> bool:
        """Whether the thread that pins memory, if there is to be one, is alive."""
        return not self._pin_memory or self._pin_memory_thread.is_alive()

    def kill(self, loader: Any, seconds: float) -> None:
        """Kill the workers; wait for nothing that might not come."""
        self._shutdown = True  # so that __del__ does not wait either
        self.heed_deaths(False)
        workers = getattr(self, "_workers", ())
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(seconds)
        if (pinning := getattr(self, "_pin_memory_thread", None)) is not None:
            self._pin_memory_thread_done_event.set()
            self._worker_result_queue.cancel_join_thread()
            self._worker_result_queue.put((None, None))  # wakes it
            pinning.join(seconds)
        if loader is not None and loader._iterator is self:
            loader._iterator = None  # the next iteration starts new workers

    def _get_data(self) -> Any:
        return self.next_result()

    def _reset(self, loader: Any, first_iter: bool = False) -> None:
        self.begin(lambda: super(WorkersIterator, self)._reset(loader, first_iter))

    def _process_data(self, data: Any, *args: Any) -> Any:
        from torch._utils import ExceptionWrapper

        if isinstance(data, ExceptionWrapper):
            # Later torch tells the worker, too, and has counted the batch before.
            self.raised(data, self.batch - 1 if args else self.batch)
        return super()._process_data(data, *args)


@contextlib.contextmanager
def dealt_by(loader: Any, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Let the iterator that a DataLoader makes now take indices from another sampler.

    A DataLoader refuses another one as attribute, for nothing would ensure that it
    fits. Persistent workers that are at work already are given up. Gone: a resume
    inside an epoch stops with an AttributeError.

    Args:
        loader: The DataLoader.
        wrap: Makes the sampler from the one that is there.
    """
    loader._iterator = None
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    dealer = getattr(loader, name)
    object.__setattr__(loader, name, wrap(dealer))
    try:
        yield
    finally:
        object.__setattr__(loader, name, dealer)
