"""How a training run ends by what meets it from outside, and is no fault of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmssl_ext import interrupt
from mmssl_ext.errors import Preempted, UserError
from mmssl_ext.files import read_text
from mmssl_ext.room import no_room, told


@contextlib.contextmanager
def leaving_by_sentence() -> Iterator[list[str]]:
    """End by a sentence after a signal outside of the loop, and on a full disk.

    Within the loop PreemptionHook heeds signals. The list that is yielded takes the
    work_dir as soon as it is known.

    Raises:
        Preempted: In place of :class:`~mmssl_ext.interrupt.Interrupted`.
        UserError: In place of an error for want of room on the disk.
    """
    place: list[str] = []
    try:
        yield place
    except (interrupt.Interrupted, Exception) as error:
        stopped, full = interrupt.behind(error), no_room(error)
        if stopped is not None and not isinstance(error, Preempted):
            raise Preempted(_sentence(stopped, place)) from error
        if full is not None and not isinstance(error, UserError):
            name = full.filename or str(Path(*place))
            found = OSError(full.errno, full.strerror, name)
            raise UserError(told(found, "go on with --resume")) from error
        raise


def _sentence(stopped: interrupt.Interrupted, place: list[str]) -> str:
    pointer = Path(*place, "last_checkpoint")
    left = "Nothing was to be saved yet; start it again."
    if place and pointer.is_file():
        newest = read_text(pointer).strip()
        left = f"The newest checkpoint there is {newest}; go on with --resume."
    return (
        f"The run{f' in {place[0]}' if place else ''} was stopped by "
        f"{stopped.number.name} where it could not save. {left}"
    )
