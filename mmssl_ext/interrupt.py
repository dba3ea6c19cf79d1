"""Ctrl-C and a closed terminal end a tool with a sentence and no traceback.

Only a tool takes the signals over, for as long as it runs: whoever imports the package
keeps the handlers of their own. A training run has further ones meanwhile, which save
before it ends (see :mod:`mmssl_ext.engine.resilience.preemption`). Few imports, for
this is in force before the large packages are imported.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, NoReturn, ParamSpec

from .room import discard, no_room, told

#: Sent to all processes of a terminal: by Ctrl-C, and when it closes.
TERMINAL = (signal.SIGINT, signal.SIGHUP)
P = ParamSpec("P")
Handler = Callable[[int, FrameType | None], Any]
SAME = 2.0  # seconds in which further signals are the first one once more


class Interrupted(KeyboardInterrupt):
    """Raised in a tool by the first of these signals."""

    logged = False  # whether a sentence about it has been said

    def __init__(self, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


_first: float | None = None  # when the first signal came
_signal: signal.Signals | None = None  # and which it was, if a tool handled it
_process = 0  # whose signals they are; a fork has no business with them


def begin() -> None:
    """From now on signals are this process's; none has come yet."""
    global _first, _signal, _process
    _first, _signal, _process = None, None, os.getpid()


def note() -> None:
    """Remember that a signal has come; the next one, if no echo, ends at once."""
    global _first
    _first = time.monotonic()
    atexit.register(ignore)  # Python restores handlers before it has ended


def is_ours() -> bool:
    """Whether this is the process that the signals are meant for, and not a fork."""
    return os.getpid() == _process


def end_if_second(number: int) -> None:
    """End a fork at once, and this process at a signal that is no echo of the first."""
    if not is_ours() or _first is None or time.monotonic() - _first > SAME:
        end_now(number)


def end_now(number: int) -> NoReturn:
    """End this process at once, as a second signal asks for."""
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(128 + number)


def behind(error: BaseException | None) -> Interrupted | None:
    """Return the interruption that an error comes from: libraries wrap it in others."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error


def swallowed() -> signal.Signals | None:
    """Return the signal that a tool was sent and some library kept to itself."""
    return _signal if is_ours() else None


def is_ignored(number: int) -> bool:
    """Whether a signal of the terminal is to be left alone, as under ``nohup``."""
    return number in TERMINAL and signal.getsignal(number) == signal.SIG_IGN


def leave_terminal() -> None:
    """Send what is still printed nowhere, as far as the terminal is gone.

    A line that cannot be written must not end a run before it has saved.
    """
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            discard(stream)


@contextlib.contextmanager
def held_back(signals: tuple[signal.Signals, ...] = TERMINAL) -> Iterator[None]:
    """Let processes that are started meanwhile begin with these signals blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore(_: object = None, signals: tuple[signal.Signals, ...] = TERMINAL) -> None:
    """Leave the signals to the parent; for a worker of a data loader."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def take_over(signals: Iterable[int], handler: Handler) -> dict[int, Any]:
    """Handle signals so that are not ignored, in the main thread; return who did."""
    if not in_main_thread():
        return {}
    return {x: signal.signal(x, handler) for x in signals if not is_ignored(x)}


def in_main_thread() -> bool:
    """Whether signals can be handled here."""
    return threading.current_thread() is threading.main_thread()


def say(text: str) -> None:
    """Write a line to standard error, if there is still one."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def at_once(code: int | None = None) -> Iterator[None]:
    """Leave at once, with a sentence, while a tool has done nothing but imports.

    The exit code is 128 + the signal's number unless a ``code`` is given.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):
            os.write(2, f"Stopped by {name} before anything was done.\n".encode())
        os._exit(128 + number if code is None else code)

    with _handled_by(leave):
        yield


def explained(main: Callable[P, int]) -> Callable[P, int]:
    """Let a command end by a sentence: 128 + a signal's number, 2 on a full disk."""

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        with raised():
            try:
                return main(*args, **kwargs)
            except KeyboardInterrupt as error:
                return explain(error)
            except Exception as error:
                if (stopped := behind(error)) is not None:
                    return explain(stopped)
                if (cause := no_room(error)) is None:
                    raise
                say(f"Error: {told(cause)}")
                return 2

    return run


def explain(error: KeyboardInterrupt) -> int:
    """Say what has stopped this command, unless that is done; return its exit code."""
    stopped = error if isinstance(error, Interrupted) else Interrupted()
    if not stopped.logged:
        say(f"Stopped by {stopped.number.name}.")
    return 128 + stopped.number


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise :class:`Interrupted` at the first signal; end at once at the second."""
    global _signal
    begin()
    with _handled_by(_handle):
        try:
            yield
        finally:
            _signal = None


def _handle(number: int, frame: FrameType | None) -> None:
    global _signal
    if _first is not None or not is_ours():
        end_if_second(number)
        return
    note()
    _signal = signal.Signals(number)
    if number == signal.SIGHUP:
        leave_terminal()
    raise Interrupted(_signal)


@contextlib.contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Handle the signals so; once one has come, for the rest of the process."""
    before = take_over(TERMINAL, handler)
    try:
        yield
    finally:
        if _first is None:
            for number, earlier in before.items():
                signal.signal(number, earlier)
