"""What a terminal shows of a run: few lines; the log file has all of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sized
from typing import Any

import torch
from mmengine.hooks import Hook

from mmssl_ext.text import shown
from mmssl_ext.unwrap import unwrap

# Beginnings of what upstream logs at length, or what a user can do nothing about.
_FOR_THE_FILE = (
    "-" * 60 + "\nSystem environment:",
    "Config:\n",
    "Hooks will be executed in the following order:",
    "Distributed training is not used, all SyncBatchNorm",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
    "The prefix is not set in metric class",
    "paramwise_options -- ",
    "Checkpoints will be saved to",
)


def quieten(logger: logging.Logger) -> None:
    """Keep from a logger's terminal what only its file needs to have."""
    for handler in logger.handlers:
        file = isinstance(handler, logging.FileHandler)
        if not file and _is_for_people not in handler.filters:
            handler.addFilter(_is_for_people)


def _is_for_people(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip("\n").startswith(_FOR_THE_FILE)


class StartHook(Hook):
    """Say what runs, on which images, from which weights, and when the first step is.

    The tools register it; ``PerformanceHook`` adds precision and memory layout.
    """

    priority = "HIGHEST"

    def before_train(self, runner: Any) -> None:
        """Name model, images, weights and log, a line each."""
        model, loader = unwrap(runner.model), runner.train_dataloader
        data = loader.dataset
        parts = [type(model).__name__]
        if (backbone := getattr(model, "backbone", None)) is not None:
            depth = getattr(backbone, "depth", None) or ""
            parts.append(f"with {type(backbone).__name__} {depth}".rstrip())
        length = _count(runner.max_iters, "iteration")
        if runner.log_processor.by_epoch:
            length = _count(runner.max_epochs, "epoch")
            if isinstance(data, Sized):  # else the loader has no length either
                length += f" of {_count(len(loader), 'batch', 'es')}"
        sampler = getattr(loader, "batch_sampler", None)
        batch = loader.batch_size or getattr(sampler, "batch_size", None) or "some"
        ranks = f" on each of {runner.world_size} ranks" * (runner.world_size > 1)
        root = next(filter(None, (getattr(data, n, None) for n in _ROOTS)), None)
        where = f", {shown(root)}" if isinstance(root, str) else ""
        say = runner.logger.info
        if (parameter := next(model.parameters(), None)) is not None:
            parts.append(f"on {parameter.device}")
        parts[-1] += ":"
        parts.append(f"{length}, {batch} images at a time{ranks}.")
        say(" ".join(parts))
        number = f"{len(data):,}" if isinstance(data, Sized) else "a stream"
        say(f"Images: {number} ({type(data).__name__}{where}).")
        say(f"Weights: {_weights(runner)}. Log: {shown(runner.log_dir)}.")
        self._start: float | None = time.monotonic()

    def after_train_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Show the first step at once."""
        if self._start is not None:
            seconds, self._start = time.monotonic() - self._start, None
            loss = (outputs or {}).get("loss")
            text = "" if loss is None else f", loss {torch.as_tensor(loss).item():.4f}"
            runner.logger.info(
                f"Step {runner.iter + 1} is done after {seconds:.1f} s{text}."
            )


_ROOTS = ("root", "data_root", "ann_file")


def _count(number: int, thing: str, plural: str = "s") -> str:
    return f"{number:,} {thing}{plural * (number != 1)}"


def _weights(runner: Any) -> str:
    if (path := runner.cfg.get("load_from")) is not None:
        how = "resumed from" if runner.cfg.get("resume") else "start with those of"
        return f"{how} {shown(path)}"
    model = dict(runner.cfg.get("model") or {})
    taught = [model.pop(name, None) for name in ("teacher", "target")]
    own, teachers = (dict.fromkeys(_checkpoints(part)) for part in (model, taught))
    begun = f"of {', '.join(map(shown, own))}" if own else "fresh"
    return begun + f", taught by {', '.join(map(shown, teachers))}" * bool(teachers)


def _checkpoints(node: Any) -> Iterator[str]:
    """The files that the ``init_cfg`` of a model's parts name."""
    if isinstance(node, (list, tuple)):
        node = dict(enumerate(node))
    for key, value in node.items() if isinstance(node, dict) else ():
        file = value.get("checkpoint") if isinstance(value, dict) else None
        if key == "init_cfg" and file:
            yield str(file)
        else:
            yield from _checkpoints(value)
