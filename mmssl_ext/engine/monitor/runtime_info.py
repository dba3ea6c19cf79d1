"""mmengine's RuntimeInfoHook without its costs: waiting, and copying histories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmssl_ext.engine.checkpoint.plain import HISTORY_LENGTH
from mmssl_ext.errors import UserTypeError
from mmssl_ext.registry import HOOKS

_MOST_WAITING = 1000  # steps; where nobody ever reads


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Record the losses of every step, but read them when somebody looks.

    mmengine's hook calls ``.item()`` for every loss of every step, and each call makes
    the host wait until the device has finished the step. Here the values stay on the
    device. The first look at any of them (LoggerHook at its interval, a checkpoint, a
    user's hook) fetches all that have come since, in one transfer. The message hub is
    to its readers what it is with mmengine's hook.

    mmengine also copies the whole history of every scalar at every update: 1 ms each
    after a million steps. Here updates cost the same however long the run is. As in
    checkpoints, the last 10,000 values are kept, more where the windows of the log
    processor are longer.
    """

    def before_train(self, runner: Any) -> None:
        """Take over the histories, on resume those of the checkpoint."""
        super().before_train(runner)
        self._waiting = Waiting()
        self._length = _longest_window(runner)
        self._take_over(runner.message_hub)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Update iteration and learning rate."""
        super().before_train_iter(runner, batch_idx, data_batch)
        self._take_over(runner.message_hub)

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Keep the values of the step where they are."""
        hub = runner.message_hub
        waiting: list[tuple[History, Tensor]] = []
        for key, value in (outputs or {}).items():
            history = hub.log_scalars.get(f"train/{key}")
            deferred = isinstance(value, Tensor) and value.numel() == 1
            if deferred and isinstance(history, History):
                waiting.append((history, value))
            else:  # a number, or a name that is new: read at once
                hub.update_scalar(f"train/{key}", value)
        self._take_over(hub)
        self._waiting.add(waiting)

    def _take_over(self, hub: Any) -> None:
        for key, history in hub.log_scalars.items():
            if type(history) is HistoryBuffer and key.startswith("train/"):
                hub.log_scalars[key] = History(history, self._length)


class Waiting:
    """Values on the device, in order, and the histories that they belong to."""

    def __init__(self) -> None:
        self._steps: list[tuple[list[History], Tensor]] = []

    def add(self, values: list[tuple[History, Tensor]]) -> None:
        """Add the values of a step, tensors of one element."""
        kinds: dict[Any, list[tuple[History, Tensor]]] = {}
        for history, value in values:
            history.waiting = self
            kinds.setdefault(_kind(value), []).append((history, value))
        for same in kinds.values():
            # A copy: the model may write to its tensors in the next step.
            stacked = torch.stack([value.detach().reshape(()) for _, value in same])
            self._steps.append(([history for history, _ in same], stacked))
        if len(self._steps) >= _MOST_WAITING:
            self.read()

    def read(self) -> None:
        """Hand all values to their histories, by one transfer for each dtype."""
        steps, self._steps = self._steps, []
        kinds: dict[Any, list[Tensor]] = {}
        for _, value in steps:
            kinds.setdefault(_kind(value), []).append(value)
        numbers: dict[Any, Iterator] = {
            kind: iter(torch.cat(values).tolist()) for kind, values in kinds.items()
        }
        for histories, value in steps:
            for history in histories:
                history.append(next(numbers[_kind(value)]), 1)


def _kind(value: Tensor) -> tuple[torch.device, torch.dtype]:
    return value.device, value.dtype


class History(HistoryBuffer):
    """A HistoryBuffer that grows in place and may wait for values of the device.

    Whoever reads it sees all values; copies and pickles are plain HistoryBuffers.

    Args:
        history: What it begins with.
        max_length: Number of values to keep.

    Attributes:
        waiting: Where newer values may be.
    """

    def __init__(self, history: HistoryBuffer, max_length: int) -> None:
        self.waiting: Waiting | None = None
        logs, counts = history.data
        super().__init__(logs[-max_length:], counts[-max_length:], max_length)

    # All methods of HistoryBuffer go through the next two.
    @property
    def _log_history(self) -> np.ndarray:
        self._read()
        return self._logs[max(self._length - self.max_length, 0) : self._length]

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._logs, self._length = values, len(values)

    @property
    def _count_history(self) -> np.ndarray:
        self._read()
        return self._counts[max(self._length - self.max_length, 0) : self._length]

    @_count_history.setter
    def _count_history(self, values: np.ndarray) -> None:
        self._counts = values

    def update(self, log_val: float, count: int = 1) -> None:
        """Append a value."""
        if not isinstance(log_val, (int, float)) or not isinstance(count, (int, float)):
            raise UserTypeError(
                "A history takes numbers, but got the value "
                f"{log_val!r} and the count {count!r}."
            )
        self._read()
        self.append(log_val, count)

    def append(self, value: float, count: float) -> None:
        """Append a value behind those that are here; room doubles when it is full."""
        if self._length == len(self._logs):
            logs, counts = (a[-self.max_length :] for a in (self._logs, self._counts))
            room = len(logs) + 64
            self._logs = np.concatenate([logs, np.empty(room, logs.dtype)])
            self._counts = np.concatenate([counts, np.empty(room, counts.dtype)])
            self._length = len(logs)
        # What numpy.append would make of, say, integers and a float.
        self._logs = _widened(self._logs, value)
        self._counts = _widened(self._counts, count)
        self._logs[self._length] = value
        self._counts[self._length] = count
        self._length += 1

    def latest(self) -> float:
        """The newest value that needs no waiting for the device."""
        return self._logs[self._length - 1]

    def _read(self) -> None:
        if self.waiting is not None:
            self.waiting.read()

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (*self.data, self.max_length)


def _widened(array: np.ndarray, value: float) -> np.ndarray:
    dtype = np.result_type(array.dtype, np.asarray(value).dtype)
    return array if dtype == array.dtype else array.astype(dtype)


def _longest_window(runner: Any) -> int:
    """Values to keep: as many as a checkpoint does, or as the log processor reads."""
    windows: list[Any] = [runner.log_processor.window_size]
    windows += [
        entry.get("window_size", "global") for entry in runner.log_processor.custom_cfg
    ]
    iters = {"epoch": len(runner.train_dataloader), "global": runner.max_iters}
    return max(HISTORY_LENGTH, *(iters.get(window, window) for window in windows))
