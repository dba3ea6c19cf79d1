"""Throughput in the logs, and a live progress bar where there is a terminal."""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import BaseLoop
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from mmssl_ext import compat
from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Measure throughput and show a live bar on a terminal.

    Two scalars join every training log line, in the console, the log file and the
    JSON log: ``img_per_s`` (images per second over all ranks, an image counted once
    however many views are cut from it) and ``data_wait`` (share of the step time
    spent waiting for the data loader, 0 to 1; as in mmengine's ``data_time``, hooks
    that run between two steps count as waiting). Both are taken over the window that
    the log processor uses for ``time``, so ``img_per_s`` equals batch / ``time``.

    On a terminal, rank 0 also draws a bar. While it is alive the console shows the
    other log lines above it and leaves out the per-iteration ones that the bar
    replaces; the log file keeps all of them. Without a terminal nothing is drawn.

    Args:
        bar: Draw the bar; ``None`` means on a terminal only.
        refresh: Seconds of wall clock between two redraws.
    """

    priority = 55  # after IterTimerHook (50), which measures; before LoggerHook (60)

    def __init__(self, bar: bool | None = None, refresh: float = 0.5) -> None:
        self.bar = bar
        self.refresh = refresh
        self._bar: _Bar | None = None
        self._steps: deque[tuple[int, float, float]] = deque()
        self._log_interval = 1
        self._next_refresh = 0.0

    def before_run(self, runner: Any) -> None:
        """Have the bar removed however the training loop ends.

        mmengine calls no hook when a run is interrupted or raises, so the clean-up
        has to enclose the loop itself.
        """
        loop = compat.train_loop(runner)  # the property would build it for a test run
        if isinstance(loop, BaseLoop):
            loop.run = functools.partial(self._run_then_close, loop.run)

    def _run_then_close(self, run: Callable[[], Any]) -> Any:
        try:
            return run()
        finally:
            self._close()

    def before_train(self, runner: Any) -> None:
        """Start measuring and, where there is a terminal, open the bar."""
        window = getattr(runner.log_processor, "window_size", 10)
        self._steps = deque(maxlen=window)
        intervals = [h.interval for h in runner.hooks if isinstance(h, LoggerHook)]
        self._log_interval = min(intervals, default=1)
        wanted = _is_terminal() if self.bar is None else self.bar
        if wanted and runner.rank == 0:
            self._bar = _Bar(runner.logger)
            self._next_refresh = 0.0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Record the step; publish before a log line, redraw twice a second."""
        scalars = runner.message_hub.log_scalars
        if "train/time" not in scalars:  # no IterTimerHook: nothing was measured
            return
        images = _batch_size(data_batch, runner.train_dataloader) * runner.world_size
        step, wait = (_latest(scalars[f"train/{x}"]) for x in ("time", "data_time"))
        self._steps.append((images, step, wait))
        # Only when a line is due: a message hub buffer is copied at every update.
        if self.every_n_inner_iters(batch_idx, self._log_interval) or (
            self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            speed, wait = self._throughput()
            runner.message_hub.update_scalar("train/img_per_s", speed)
            runner.message_hub.update_scalar("train/data_wait", wait)
        now = time.monotonic()
        if self._bar is not None and now >= self._next_refresh:
            self._next_refresh = now + self.refresh
            try:
                self._bar.draw(runner, *self._throughput())
            except OSError:  # the terminal has closed
                self._close()

    def after_train(self, runner: Any) -> None:
        """Remove the bar before later hooks print their closing lines."""
        self._close()

    def _throughput(self) -> tuple[float, float]:
        images, times, waits = map(sum, zip(*self._steps, strict=True))
        return images / max(times, 1e-9), min(waits / max(times, 1e-9), 1.0)

    def _close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _latest(history: Any) -> float:
    """The newest value that is on the host already."""
    return getattr(history, "latest", history.current)()


def _batch_size(data_batch: Any, dataloader: Any) -> int:
    try:
        return len(data_batch["data_samples"])
    except (KeyError, TypeError):
        return dataloader.batch_size or 1


class _AboveBar(FileProxy):
    """A stream whose lines appear above the bar, and plainly in forked workers."""

    def __init__(self, console: Console, raw: Any) -> None:
        super().__init__(console, raw)
        self._raw, self._pid = raw, os.getpid()

    def write(self, text: str) -> int:
        if os.getpid() != self._pid:  # a worker must not redraw its parent's bar
            return self._raw.write(text)
        super().write(text)
        return len(text)

    def flush(self) -> None:
        if os.getpid() != self._pid:
            self._raw.flush()
        else:
            super().flush()


class _Bar(Progress):
    """The bar: one line of progress, one line of numbers, no thread of its own.

    Drawing happens in the training thread: a drawing thread that holds a lock while
    the data loader forks its workers could leave them waiting for ever.
    """

    def __init__(self, logger: logging.Logger) -> None:
        console = Console(file=sys.stdout)
        self._numbers = Text()
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )
        self._task = self.add_task("starting", total=None, left="?")
        self._handlers = [
            (handler, handler.stream)
            for handler in logger.handlers
            if isinstance(handler, logging.StreamHandler)
            and handler.stream in (sys.stdout, sys.stderr)
        ]
        self.start()
        console.show_cursor(True)  # so that even a kill leaves a usable terminal
        proxy = _AboveBar(console, sys.stdout)
        for handler, _ in self._handlers:
            handler.setStream(proxy)
            handler.addFilter(_not_replaced)
        self._redirects = contextlib.ExitStack()
        self._redirects.enter_context(contextlib.redirect_stdout(proxy))
        if sys.stderr.isatty():
            errors = _AboveBar(console, sys.stderr)
            self._redirects.enter_context(contextlib.redirect_stderr(errors))

    def get_renderables(self) -> Iterator[RenderableType]:
        """Both lines."""
        yield self.make_tasks_table(self.tasks)
        yield self._numbers

    def draw(self, runner: Any, img_per_s: float, data_wait: float) -> None:
        """Show where the run stands; reads only what is on the host already."""
        hub = runner.message_hub
        eta = datetime.timedelta(seconds=int(hub.get_info("eta", 0)))
        epochs = f"epoch {runner.epoch + 1}/{runner.max_epochs}"
        self.update(
            self._task,
            description=epochs if runner.log_processor.by_epoch else "training",
            completed=runner.iter + 1,
            total=runner.max_iters,
            left=str(eta),
        )
        scalars = {
            key.removeprefix("train/"): _latest(history)
            for key, history in hub.log_scalars.items()
            if key.endswith(("/loss", "/lr", "backbone_top1"))
        }
        kinds = {"loss": "loss {:.4f}", "lr": "lr {:.2e}"}
        parts = [kinds[x].format(scalars[x]) for x in kinds if x in scalars]
        parts += [f"{img_per_s:,.0f} img/s", f"data wait {data_wait:.0%}"]
        scores = [value for key, value in scalars.items() if "knn/" in key]
        parts += [f"kNN {score:.1f} %" for score in scores[:1]]
        text = "  ".join(parts)
        self._numbers = Text(text, style="dim", no_wrap=True, overflow="crop")
        self.refresh()

    def close(self) -> None:
        """Erase the bar and give streams and handlers back."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        self._redirects.close()
        for handler, stream in self._handlers:
            handler.removeFilter(_not_replaced)
            handler.setStream(stream)
        with contextlib.suppress(OSError):
            self.stop()


def _not_replaced(record: logging.LogRecord) -> bool:
    """Whether a log line says something that the bar does not."""
    repeated = ("Epoch(train)", "Iter(train)", "Exp name:")
    return record.levelno != logging.INFO or not str(record.msg).startswith(repeated)
