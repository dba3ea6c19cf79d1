"""How a training run ends where a signal meets it outside of its loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmssl_ext.files import read_text
from mmssl_ext.interrupt import Interrupted

from .errors import Preempted


@contextlib.contextmanager
def leaving_by_sentence() -> Iterator[list[str]]:
    """End as PreemptionHook does, while a run is made ready and when it has trained.

    Yields:
        A list that takes the work_dir as soon as it is known.

    Raises:
        Preempted: In place of :class:`~mmssl_ext.interrupt.Interrupted`.
    """
    place: list[str] = []
    try:
        yield place
    except Interrupted as error:
        pointer = Path(*place, "last_checkpoint")
        left = "Nothing was to be saved yet; start it again."
        if place and pointer.is_file():
            newest = read_text(pointer).strip()
            left = f"The newest checkpoint there is {newest}; go on with --resume."
        raise Preempted(
            f"The run{f' in {place[0]}' if place else ''} was stopped by "
            f"{error.number.name} outside of its steps. {left}"
        ) from error
