"""Signals that ask a run to stop, and where it may: between two steps, on all ranks.

What :class:`~mmssl_ext.engine.resilience.preemption_hook.PreemptionHook` promises rests
on a flag that the signals set. It is looked at whenever a batch is fetched, in training
and in evaluation; all ranks then agree, so none waits for one that has left. While a
rank waits for data the flag ends the wait.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from mmssl_ext import interrupt

from .agreement import agree

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, *interrupt.TERMINAL)

_ON, _STOP, _FAILED = 0, 1, 2  # what ranks agree on


class Interruption(BaseException):
    """Leaves the loop of a run on all ranks at once; ``except Exception`` lets it pass.

    Attributes:
        failed: Data could not be loaded; otherwise a signal asked to stop.
        error: What this rank's loader raised, if anything.
        during: Which evaluation is under way, None in training.
    """

    def __init__(
        self, failed: bool, error: Exception | None, during: str | None
    ) -> None:
        super().__init__()
        self.failed, self.error, self.during = failed, error, during


class _Now(BaseException):
    """Raised by the handler while data are waited for."""


class StopSignals:
    """What the signals of this process ask for, while a run lasts.

    Args:
        may_stop: Whether the state between the last step and the next can be saved.

    Attributes:
        asked: The first signal, None before.
        during: Which evaluation is under way, None in training.
    """

    def __init__(self, may_stop: Callable[[], bool] = lambda: True) -> None:
        self.asked: signal.Signals | None = None
        self.during: str | None = None
        self._may_stop = may_stop
        self._leaves = False
        self._raises = False  # at a signal: data are waited for
        self._before: dict[int, Any] = {}
        # by the identity of a loader: batches in which all ranks take part
        self._common: dict[int, float] = {}

    def install(self) -> None:
        """Take the signals over; only the main thread can."""
        global _current
        if _current is not None:
            _current.give_back(even_leaving=True)
        _current = self
        self.asked = interrupt.swallowed()
        if self.asked is None:
            interrupt.begin()
        else:
            self.leave()
        self._before = interrupt.take_over(SIGNALS, self._handle)

    def leave(self) -> None:
        """The process ends for a signal, be it one that another rank was sent.

        The notice may still arrive here (once more), and must not change how it ends.
        """
        if not self._leaves:
            # Python restores handlers before it has ended.
            atexit.register(interrupt.ignore, None, SIGNALS)
            interrupt.note()
        self._leaves = True

    def give_back(self, even_leaving: bool = False) -> None:
        """Restore the handlers, unless the process is about to end for a signal.

        Those of the terminal are restored then, too: a tool knows what has come, and an
        interactive session does not end.
        """
        global _current
        if _current is self:
            _current = None
        if not interrupt.in_main_thread():
            return
        all_of_them = even_leaving or not self._leaves
        for number in list(self._before):
            if all_of_them or number in interrupt.TERMINAL:
                handler = self._before.pop(number)
                if signal.getsignal(number) == self._handle:
                    signal.signal(number, handler)

    def trains(self, loader: Any) -> None:
        """Let all ranks agree on every batch of a loader."""
        self._common[id(loader)] = math.inf

    @contextlib.contextmanager
    def evaluates(self, what: str, *loaders: Any) -> Iterator[None]:
        """Let all ranks agree on the batches of these loaders that all of them have."""
        before, self.during = self.during, what
        # The smallest number of the ranks is the largest of their negatives.
        self._common |= {id(x): -agree(-_length(x)) for x in loaders}
        try:
            yield
        finally:
            for loader in loaders:
                self._common.pop(id(loader), None)
            self.during = before

    def agree_on(self, loader: int, batch: int) -> bool:
        """Whether ranks agree after this batch, counted from 0, of a loader."""
        return batch < self._common.get(loader, 0)

    def fetch(self, get: Callable[[], Any], is_left: Callable[[], bool]) -> Any:
        """Return a batch, or leave together with the other ranks.

        Args:
            get: Returns the batch.
            is_left: Whether there is one. Ranks agree on batches, not on their end, at
                which others may still be far from theirs.

        Raises:
            Interruption: A rank was asked to stop, or failed to get its batch.
        """
        batch, error = None, None
        if not is_left():
            return get()  # raises StopIteration
        may_stop = self._may_stop()
        try:
            try:
                self._raises = may_stop and interrupt.in_main_thread()
                if self.asked and may_stop:
                    raise _Now
                batch = get()
            finally:
                self._raises = False
        except _Now:
            self._raises = False
        except StopIteration:  # of a stream, which knows only now
            raise
        except Exception as caught:
            error = caught
        stop = self.asked is not None and may_stop
        code = agree(_STOP if stop else _ON if error is None else _FAILED)
        if code == _ON:
            return batch
        raise Interruption(code == _FAILED, error, self.during) from error

    def _handle(self, number: int, frame: Any) -> None:
        if self.asked is not None or not interrupt.is_ours():
            interrupt.end_if_second(number)
            return
        self.asked = signal.Signals(number)
        self.leave()
        interrupt.note()  # its echo counts from now, not from that of another rank
        if number == signal.SIGHUP:
            interrupt.leave_terminal()
        text = f"{self.asked.name}: stopping; a second signal ends at once.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # a logger might hold its lock just now
        if self._raises:
            raise _Now


_current: StopSignals | None = None


def current() -> StopSignals | None:
    """Return the signals of the run that this process is in."""
    return _current


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """Give the signals back at the end, also of a run that fails before its loop."""
    try:
        yield
    finally:
        if _current is not None:
            _current.give_back()


def interruptible(what: str, *loaders: Any) -> contextlib.AbstractContextManager[None]:
    """Let a signal end an evaluation that reads these data loaders on all ranks.

    ``what`` is its name in messages.
    """
    if _current is None:
        return contextlib.nullcontext()
    return _current.evaluates(what, *loaders)


def _length(loader: Any) -> int:
    try:
        return len(loader)
    except TypeError:  # of a stream: nobody knows how many batches the ranks have
        return 0
