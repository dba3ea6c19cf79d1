"""The folder of a run: writable, and used by one run at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def occupied(work_dir: str | Path) -> Iterator[None]:
    """Hold the folder for a run."""
    yield
