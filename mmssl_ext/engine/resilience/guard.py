"""Stop a run whose loss or weights are no longer finite."""

from __future__ import annotations

import contextlib
import json
import math
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from torch import Tensor

from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.errors import NonFiniteLossError, UserValueError
from mmssl_ext.files import read_text, write_text
from mmssl_ext.registry import HOOKS
from mmssl_ext.text import shown
from mmssl_ext.unwrap import unwrap

_NEVER = 2**62


class _Step(NamedTuple):
    iteration: int
    names: tuple[str, ...]
    values: Tensor  # one per name, on the device
    paths: list[str]


@HOOKS.register_module()
class NonFiniteGuardHook(Hook):
    """Raise when a loss or another logged value becomes NaN or infinite.

    Each step marks the first bad iteration in a tensor on the device, without waiting
    for it. The mark is read, over all ranks, every ``interval`` iterations, at the end
    of an epoch and before a checkpoint, there together with all weights and buffers.
    It runs before the checkpoint hook deletes or writes anything (in loops without
    epochs this needs PlainCheckpointHook), so the last good checkpoint stays.
    The findings also go to ``nonfinite_report.json`` in the work_dir.

    Args:
        interval: Iterations between two looks at the mark.

    Raises:
        NonFiniteLossError: A value is not finite.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 10) -> None:
        if interval < 1:
            raise UserValueError(f"interval={interval} must be at least 1.")
        self.interval = interval
        self._steps: deque[_Step] = deque(maxlen=interval)
        self._first: Tensor | None = None

    def before_train(self, runner: Any) -> None:
        """Forget an earlier run."""
        self._steps.clear()
        self._first = None

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Mark the step on the device; look at the mark at the interval."""
        if outputs:
            values = _stack(list(outputs.values()))
            if self._first is None:
                self._first = torch.tensor(_NEVER, device=values.device)
            bad = ~values.isfinite().all() & (self._first == _NEVER)
            # The iteration goes along with the kernel: copying it would wait.
            self._first = self._first.masked_fill(bad, runner.iter)
            self._steps.append(
                _Step(runner.iter, tuple(outputs), values, _paths(data_batch))
            )
        if self.every_n_train_iters(runner, self.interval):
            self._check_losses(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Look before kNN, checkpoints and reports use the model."""
        self._check_losses(runner)
        self._check_weights(runner)

    def before_write_checkpoint(self, runner: Any) -> None:
        """Look before PlainCheckpointHook deletes or writes a file."""
        self.after_train_epoch(runner)

    def _check_losses(self, runner: Any) -> None:
        if self._first is None:
            return
        first = self._first.clone()
        all_reduce(first, op="min")
        iteration = int(first)
        if iteration == _NEVER:
            return
        mine: dict[str, Any] = {"losses": {}, "images": []}
        for step in self._steps:
            if step.iteration == iteration:
                losses = dict(zip(step.names, step.values.tolist(), strict=True))
                mine = {"losses": losses, "images": step.paths}
        ranks: dict[str, Any] = {}
        bad: dict[str, float] = {}
        images: list[str] = []
        for rank, found in enumerate(all_gather_object(mine)):
            infinite = {
                k: v for k, v in found["losses"].items() if not math.isfinite(v)
            }
            if infinite:
                ranks[str(rank)] = found
                bad |= infinite
                images += found["images"]
        text = ", ".join(f"{name} = {value:.4g}" for name, value in bad.items())
        more = f" and {len(images) - 4} more" if len(images) > 4 else ""
        named = f"{', '.join(map(shown, images[:4]))}{more}"
        self._stop(
            runner,
            iteration,
            f"{text} at iteration {iteration + 1}",
            {"ranks": ranks},
            f" Images of that batch: {named}." if images else "",
        )

    def _check_weights(self, runner: Any) -> None:
        state = {
            name: value
            for name, value in unwrap(runner.model).state_dict().items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        if not state:
            return
        finite = torch.stack([value.isfinite().all() for value in state.values()])
        flag = finite.all().int()
        all_reduce(flag, op="min")
        if flag:
            return
        flags = zip(state, finite.tolist(), strict=True)
        names = [name for name, is_finite in flags if not is_finite]
        self._stop(
            runner,
            max(runner.iter - 1, 0),
            f"Weights are not finite although the losses were: {', '.join(names[:3])} "
            f"({len(names)} tensors) after iteration {runner.iter}",
            {"weights": names},
        )

    def _stop(
        self, runner: Any, iteration: int, what: str, details: dict, images: str = ""
    ) -> None:
        lr = {name: value[0] for name, value in runner.optim_wrapper.get_lr().items()}
        good = _last_checkpoint(runner)
        report = {
            "iteration": iteration + 1,
            "epoch": runner.epoch + 1,
            "lr": lr,
            "last_good_checkpoint": good,
            **details,
        }
        file = Path(runner.work_dir) / "nonfinite_report.json"
        if runner.rank == 0:
            with contextlib.suppress(OSError):  # what is told below counts more
                write_text(file, json.dumps(report, indent=2) + "\n")
        rates = ", ".join(f"{name} {value:.4g}" for name, value in lr.items())
        resume = "No checkpoint was written yet; start again with a lower rate."
        if good:
            resume = (
                "Lower the learning rate or look at those images, then resume with "
                f"--resume {good}."
            )
        text = (
            f"Training stopped: {what} (epoch {runner.epoch + 1}, {rates}).{images} "
            f"Details: {file}. {resume}"
        )
        runner.logger.error(text)
        raise NonFiniteLossError(text)


def _stack(values: list[Any]) -> Tensor:
    """Means of tensors or numbers in one new tensor on the device of the tensors."""
    device = next((x.device for x in values if isinstance(x, Tensor)), None)
    tensors = [
        # Written by a kernel: copying a number to the device would wait for it.
        x.detach() if isinstance(x, Tensor) else torch.full((), x, device=device)
        for x in values
    ]
    return torch.stack([x.float().mean() for x in tensors])


def _paths(data_batch: Any) -> list[str]:
    samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else ()
    return [str(sample.get("img_path", "?")) for sample in samples or ()]


def _last_checkpoint(runner: Any) -> str | None:
    wait_for_checkpoints()  # the last one may still be on its way to the disk
    path = runner.message_hub.get_info("last_ckpt")
    pointer = Path(runner.work_dir) / "last_checkpoint"
    if path is None and pointer.is_file():
        path = read_text(pointer).strip()
    return path if path and Path(path).is_file() else None
