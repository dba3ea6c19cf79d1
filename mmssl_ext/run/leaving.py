"""How a training run ends by what meets it from outside, and is no fault of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmssl_ext import interrupt
from mmssl_ext.errors import Preempted, UserError
from mmssl_ext.files import read_text
from mmssl_ext.interrupt import Interrupted
from mmssl_ext.room import no_room, told


@contextlib.contextmanager
def leaving_by_sentence() -> Iterator[list[str]]:
    """End by a sentence after a signal outside of the loop, and on a full disk.

    Within the loop PreemptionHook heeds signals.

    Yields:
        A list that takes the work_dir as soon as it is known.

    Raises:
        Preempted: In place of :class:`~mmssl_ext.interrupt.Interrupted`.
        UserError: In place of an error for want of room on the disk.
    """
    place: list[str] = []
    try:
        yield place
    except (Interrupted, Exception) as error:
        stopped = interrupt.behind(error)
        if stopped is None or isinstance(error, Preempted):
            _raise_for_room(error, place)
            raise
        pointer = Path(*place, "last_checkpoint")
        left = "Nothing was to be saved yet; start it again."
        if place and pointer.is_file():
            newest = read_text(pointer).strip()
            left = f"The newest checkpoint there is {newest}; go on with --resume."
        raise Preempted(
            f"The run{f' in {place[0]}' if place else ''} was stopped by "
            f"{stopped.number.name} where it could not save. {left}"
        ) from error


def _raise_for_room(error: BaseException, place: list[str]) -> None:
    cause = no_room(error)
    if cause is not None and not isinstance(error, UserError):
        name = cause.filename or str(Path(*place))
        found = OSError(cause.errno, cause.strerror, name)
        raise UserError(told(found, "go on with --resume")) from error
