"""mmengine's RuntimeInfoHook without its costs: waiting, and copying histories."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmssl_ext.engine.checkpoint.plain import HISTORY_LENGTH
from mmssl_ext.errors import UserTypeError
from mmssl_ext.registry import HOOKS

_MOST = 1000  # values or steps that are kept apart where nobody reads


@HOOKS.register_module()
class DeferredRuntimeInfoHook(RuntimeInfoHook):
    """Record the losses of every step, but read them when somebody looks.

    mmengine's hook calls ``.item()`` for every loss of every step, and each call makes
    the host wait until the device has finished the step. Here the values stay on the
    device. The first look at any of them (LoggerHook at its interval, a checkpoint, a
    user's hook) fetches all that have come since, in one transfer. The message hub is
    to its readers what it is with mmengine's hook.

    mmengine also copies the whole history of every scalar at every update: 1 ms each
    after a million steps. Here updates are collected. As in checkpoints, the last
    10,000 values are kept, more where the windows of the log processor are longer.
    """

    def before_train(self, runner: Any) -> None:
        """Take over the histories, on resume those of the checkpoint."""
        super().before_train(runner)
        self._on_device = ValuesOnDevice()
        self._length = _longest_window(runner)
        self._take_over(runner.message_hub)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Update iteration and learning rate."""
        super().before_train_iter(runner, batch_idx, data_batch)
        self._take_over(runner.message_hub)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep the values of the step where they are."""
        hub = runner.message_hub
        deferred: list[tuple[History, Tensor]] = []
        for key, value in (outputs or {}).items():
            history = hub.log_scalars.get(f"train/{key}")
            single = isinstance(value, Tensor) and value.numel() == 1
            if single and isinstance(history, History):
                deferred.append((history, value))
            else:  # a number, or a name that is new: read at once
                hub.update_scalar(f"train/{key}", value)
        self._take_over(hub)
        self._on_device.add(deferred)

    def _take_over(self, hub: Any) -> None:
        for key, history in hub.log_scalars.items():
            if type(history) is HistoryBuffer and key.startswith("train/"):
                hub.log_scalars[key] = History(history, self._length)


class ValuesOnDevice:
    """Values that are still on the device, and the histories that they belong to."""

    def __init__(self) -> None:
        self._steps: list[tuple[list[History], Tensor]] = []

    def add(self, values: list[tuple[History, Tensor]]) -> None:
        """Add the values of a step, tensors of one element."""
        kinds: dict[Any, list[tuple[History, Tensor]]] = {}
        for history, value in values:
            history.on_device = self
            kinds.setdefault(_kind(value), []).append((history, value))
        for same in kinds.values():
            # A copy: the model may write to its tensors in the next step.
            stacked = torch.stack([value.detach().reshape(()) for _, value in same])
            self._steps.append(([history for history, _ in same], stacked))
        if len(self._steps) >= _MOST:
            self.read()

    def read(self) -> None:
        """Give all values to their histories, by one transfer for each dtype."""
        steps, self._steps = self._steps, []
        kinds: dict[Any, list[Tensor]] = {}
        for _, values in steps:
            kinds.setdefault(_kind(values), []).append(values)
        numbers = {
            kind: iter(torch.cat(values).tolist()) for kind, values in kinds.items()
        }
        for histories, values in steps:
            for history in histories:
                history.append(next(numbers[_kind(values)]), 1)


def _kind(value: Tensor) -> tuple[torch.device, torch.dtype]:
    return value.device, value.dtype


class History(HistoryBuffer):
    """A HistoryBuffer that collects updates and may have values on the device.

    Whoever reads it sees all values; copies and pickles are plain HistoryBuffers.

    Args:
        history: What it begins with.
        max_length: Number of values to keep.

    Attributes:
        on_device: Where newer values may be.
    """

    def __init__(self, history: HistoryBuffer, max_length: int) -> None:
        self.on_device: ValuesOnDevice | None = None
        self._new: list[tuple[float, float]] = []  # value and count, not in the arrays
        logs, counts = history.data
        super().__init__(logs[-max_length:], counts[-max_length:], max_length)

    # All methods of HistoryBuffer go through the next two.
    @property
    def _log_history(self) -> np.ndarray:
        self._complete()
        return self._logs

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._logs = values

    @property
    def _count_history(self) -> np.ndarray:
        self._complete()
        return self._counts

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
        self._read_device()
        self.append(log_val, count)

    def append(self, value: float, count: float) -> None:
        """Append a value behind those that are on the host."""
        self._new.append((value, count))
        if len(self._new) >= _MOST:
            self._settle()

    def latest(self) -> float:
        """The newest value that needs no waiting for the device."""
        return self._new[-1][0] if self._new else self._logs[-1]

    def _read_device(self) -> None:
        if self.on_device is not None:
            self.on_device.read()

    def _complete(self) -> None:
        self._read_device()
        self._settle()

    def _settle(self) -> None:
        """Put the new values into the arrays, with the dtypes of numpy.append."""
        if self._new:
            new, self._new = self._new, []
            logs, counts = (np.array(column) for column in zip(*new, strict=True))
            self._logs = np.append(self._logs, logs)[-self.max_length :]
            self._counts = np.append(self._counts, counts)[-self.max_length :]

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (*self.data, self.max_length)


def _longest_window(runner: Any) -> int:
    """Values to keep: as many as a checkpoint does, or as the log processor reads."""
    windows: list[Any] = [runner.log_processor.window_size]
    windows += [
        entry.get("window_size", "global") for entry in runner.log_processor.custom_cfg
    ]
    iters = {"epoch": len(runner.train_dataloader), "global": runner.max_iters}
    return max(HISTORY_LENGTH, *(iters.get(window, window) for window in windows))
