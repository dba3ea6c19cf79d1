"""Copy the next batch to the GPU while the step of the last one runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Deliver = Callable[[], Any]  # returns a batch whose copy has been started


class PrefetchLoader:
    """A data loader that is one batch ahead.

    Order, length, number of batches and exceptions are those of the loader: an error
    is raised where the loader would have raised it, after the batches before it.
    Every attribute of the loader can be read here.

    Args:
        loader: The loader to wrap; best with ``pin_memory=True``, for the copy of other
            memory needs a second one on the host.
        start: Starts the copy of a batch and returns a function that delivers it;
            e.g. a :class:`CopyToDevice`.
    """

    def __init__(self, loader: Any, start: Callable[[Any], Deliver]) -> None:
        self.loader = loader
        self.start = start

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not there yet while a copy is made
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        # The loader's iterator is made at once, as the loader itself would: who asks
        # for this one may have prepared samplers or generators for it.
        return self._one_ahead(iter(self.loader))

    def _one_ahead(self, batches: Iterator[Any]) -> Iterator[Any]:
        deliver: Deliver | None = None
        error: Exception | None = None
        while error is None:
            # Before the last batch is used, so that the copy runs beside its step.
            try:
                following = self.start(next(batches))
            except StopIteration:
                following = None
            except Exception as caught:
                following, error = None, caught
            if deliver is not None:
                yield deliver()
            if following is None and error is None:
                return
            deliver = following
        raise error


class CopyToDevice:
    """Copies of the views of a batch on a stream of their own.

    With ``inputs`` go ``boxes`` and ``index``. Labels and the parameters of the
    augmentation (``augment``) are read on the host, and stay.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.device = device

    def __call__(self, batch: Any) -> Deliver:
        """Start the copy."""
        if not isinstance(batch, dict) or "inputs" not in batch:
            return lambda: batch
        with torch.cuda.stream(self.stream):
            copies = {
                name: _map(self._copy, batch[name])
                for name in ("inputs", "boxes", "index")
                if name == "inputs" or isinstance(batch.get(name), Tensor)
            }
        copied = self.stream.record_event()

        def deliver() -> dict:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)  # not for the stream: the next copy is in it
            # The memory belongs to the side stream: it must not give it to the next
            # copy while kernels of this stream may still read it.
            for values in copies.values():
                _map(lambda value: value.record_stream(current), values)
            return {**batch, **copies}

        return deliver

    def _copy(self, value: Tensor) -> Tensor:
        if value.is_cuda:
            return value
        pinned = value if value.is_pinned() else value.pin_memory()
        return pinned.to(self.device, non_blocking=True)


def _map(function: Callable[[Tensor], Any], inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return function(inputs)
    return [_map(function, view) for view in inputs]


def prefetch(loop: Any, start: Callable[[Any], Deliver]) -> None:
    """Let a training loop of mmengine take its batches from a PrefetchLoader."""
    loop.dataloader = PrefetchLoader(loop.dataloader, start)
    if hasattr(loop, "dataloader_iterator"):  # of IterBasedTrainLoop, not yet in use
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
