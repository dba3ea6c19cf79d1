"""How far the work on many images is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

_REFRESH = 0.5  # seconds between two drawings of a bar


@contextmanager
def bar_of(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; drawn by no thread, so one may fork."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    drawn = -_REFRESH
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task(text, total=total)

        def show(done: int) -> None:
            nonlocal drawn
            progress.update(task, completed=done)
            if done >= total or time.monotonic() - drawn >= _REFRESH:
                drawn = time.monotonic()
                progress.refresh()

        yield show
