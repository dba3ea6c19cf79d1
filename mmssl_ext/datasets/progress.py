"""How far the work on many images is: a bar, or lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

_REFRESH = 0.5  # seconds between two drawings of a bar


@contextmanager
def progress_of(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a line for each tenth elsewhere."""
    console = Console()
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(text, total=total)
            yield lambda done: progress.update(task, completed=done)
        return
    written = 0

    def write_tenth(done: int) -> None:
        nonlocal written
        if total >= 100 and done * 10 // total > written:
            written = done * 10 // total
            print(f"{text}: {done:,} of {total:,}.", flush=True)

    yield write_tenth


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


def format_bytes(count: int) -> str:
    """Write a number of bytes with a unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
