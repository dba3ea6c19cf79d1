"""What the ranks decide together, and which of them is gone where one does not come."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.logging import print_log

from mmssl_ext.compat import rendezvous_store
from mmssl_ext.errors import Preempted, RankError
from mmssl_ext.files import read_text
from mmssl_ext.interrupt import in_main_thread
from mmssl_ext.text import printable

from .processes import is_alive
from .ranks import TIMEOUT, first_line, is_collective

T = TypeVar("T")

_POLL = 0.5  # seconds between two looks of a rank for an alarm
_ANSWER = 5.0  # seconds that a rank has to answer an alarm
_LEAVE = 60.0  # seconds that a rank then has to leave by itself


def agree(code: int) -> int:
    """Return the largest of the codes that the ranks give.

    Every rank must call it equally often. It goes over a gloo group of its own, so it
    never waits for a GPU, and at most ``env_cfg.dist_cfg.timeout`` for another rank.

    Args:
        code: 0 go on, 1 a signal asked to stop, 2 the data loader failed.

    Raises:
        RankError: Another rank is gone, failed or does not come.
    """
    if (ranks := _current_ranks()) is None:
        return code
    largest = torch.tensor([code])
    with ranks.together():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=ranks.group)
    return int(largest)


def share(function: Callable[[], T]) -> T:
    """Call a function on rank 0 only and return on every rank what it returned there.

    Raises:
        RankError: Another rank is gone, failed or does not come.
    """
    if (ranks := _current_ranks()) is None:
        return function()
    value: list[Any] = [function() if dist.get_rank() == 0 else None]
    with ranks.together():
        dist.broadcast_object_list(value, src=0, group=ranks.group)
    return value[0]


@contextlib.contextmanager
def naming_lost_ranks(
    work_dir: str | Path,
    timeout: float = TIMEOUT,
    before_exit: Callable[[], object] = lambda: None,
) -> Iterator[None]:
    """Say which rank is gone where something fails for that, while this lasts.

    Args:
        work_dir: Of the run, for the name of its last checkpoint.
        timeout: Seconds that ranks wait for one another.
        before_exit: Called before a rank is ended that does not leave by itself: waits
            for what it has still to write.

    Raises:
        RankError: In place of the error of a collective.
    """
    global _current
    ranks = _current_ranks(timeout)
    if ranks is None:
        yield
        return
    ranks.work_dir, ranks.before_exit = Path(work_dir), before_exit
    try:
        yield
        agree(0)  # one that leaves early would be missed by the others
        ranks.leave()
    except BaseException as error:
        lost = error
        own = isinstance(error, (RankError, KeyboardInterrupt))
        if not own and is_collective(error):
            lost = ranks.lost(error)
        if not isinstance(lost, RankError):
            ranks.leave(error)
            raise
        ranks.leave()
        if not lost.logged:
            print_log(str(lost), logger="current", level=logging.ERROR)
        raise lost from error.__cause__ if lost is error else error
    finally:
        _current = None


class _Ranks:
    """All ranks of a run, and which of them is gone.

    They agree over a gloo group of their own. A rank that finds another one missing, or
    that leaves by an error, raises an alarm in the store of the rendezvous. A thread of
    every rank looks for it and answers, even while the rank waits in a collective; who
    does not answer is gone. Who answers has a minute to leave by itself: it may wait
    for a GPU that waits for the rank which is gone.

    Args:
        timeout: Seconds that ranks wait for one another.
    """

    def __init__(self, timeout: float) -> None:
        self.world = dist.group.WORLD
        self.work_dir: Path | None = None
        self.before_exit: Callable[[], object] = lambda: None
        self._rank, self._timeout = dist.get_rank(), timeout
        self._calls = 0  # how often this rank has begun to agree on something
        self._answers: set[int] = set()
        self._speakers: set[int] = set()  # who answered and has no error to tell
        self._found: list[str] | None = None  # None: nothing was found out
        self._judged = threading.Event()
        self._left = threading.Event()
        self._served_by_launcher = (
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        )
        self.group = dist.new_group(timeout=timedelta(seconds=timeout), backend="gloo")
        # One store may serve several runs, one after the other.
        known: list[Any] = [None] * dist.get_world_size()
        me = socket.gethostname(), os.getpid(), secrets.token_hex(8)
        dist.all_gather_object(known, me, group=self.group)
        self._where = [(host, pid) for host, pid, _ in known]
        self._everybody = range(len(known))
        self._store, self._place = _own_store(f"mmssl_ext/{known[0][2]}", timeout)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        atexit.register(self._end)  # Python must not end in the middle of a call

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let an error of a collective that all take part in name who does not."""
        self._calls += 1
        try:
            yield
        except RuntimeError as error:
            raise self.lost(error) from error

    def lost(self, error: BaseException | None) -> RankError:
        """Return an error that names who is gone, failed or does not come."""
        main = in_main_thread()
        # A launcher that already stops this rank must not cut its sentence off.
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN) if main else None
        try:
            _within(_ANSWER, lambda: self._store.set("alarm", ""))
            self._judged.wait(2 * _ANSWER)
        finally:
            if main:
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        found = self._found
        if found is None and self._served_by_launcher:
            found = [
                f"The store of the rendezvous at {self._place} does not answer: "
                "torchrun on its first node is gone or stopped"
            ]
        elif found is None:
            found = [f"{self._name(0)}, which has the store, {self._state(0)}"]
        if not found:
            found = [f"The ranks have lost one another: {first_line(error)}"]
        lost = RankError(f"{'; '.join(found)}. {self._way_out()}")
        lost.logged = self._rank != min([*self._speakers, self._rank])  # one says it
        return lost

    def leave(self, error: BaseException | None = None) -> None:
        """Answer for the last time; an error is what the others are told."""
        self._end()
        words = ""
        if error is not None and not isinstance(error, Preempted):  # agreed by all
            words = f"{type(error).__name__}: {first_line(error)}"

        def say() -> None:
            if words:
                self._store.set(f"words/{self._rank}", words)
            self._answer()  # last: who has answered has said all
            if words:
                self._store.set("alarm", "")
            self._store.set(f"heard/{self._rank}", "")
            if self._rank == 0 and not self._served_by_launcher:
                # The store ends with this process: let the others read it first.
                heard = [f"heard/{x}" for x in self._answers or self._everybody]
                while self._has("alarm") and not self._has(*heard):
                    time.sleep(_POLL / 2)

        _within(2 * _ANSWER, say)

    def _end(self) -> None:
        self._left.set()
        self._thread.join(2 * _POLL)

    def _watch(self) -> None:
        """Find out what an alarm is about; then see to it that this rank leaves."""
        try:
            while not self._has("alarm"):
                if self._left.wait(_POLL):
                    return
            self._found = self._causes()
            self._store.set(f"heard/{self._rank}", "")
        except RuntimeError:  # the store is gone; whoever needs it will say so
            return
        finally:
            self._judged.set()
        if self._left.wait(_LEAVE):
            return
        lost = self.lost(None)
        if not lost.logged:
            print(printable(f"Error: {lost}"), file=sys.stderr, flush=True)
        _within(_LEAVE, self.before_exit)
        os._exit(lost.exit_code)

    def _causes(self) -> list[str]:
        """Ask all; say of every rank that is not well what is known, of four at most.

        They have a while to answer. Only what is missing then is looked for one by one.
        """
        self._answer()
        end = time.monotonic() + _ANSWER
        everybody = [f"here/{rank}" for rank in self._everybody]
        while not self._has(*everybody) and time.monotonic() < end:
            time.sleep(_POLL / 2)
        calls, words = self._said("here"), self._said("words")
        self._answers = set(calls)
        self._speakers = self._answers - set(words)
        found = [f"{self._name(rank)} stopped by {words[rank]}" for rank in words]
        for rank in self._everybody:
            if rank not in calls:
                found.append(f"{self._name(rank)} {self._state(rank)}")
        if not found:
            found = [
                f"{self._name(rank)} did not come within {self._timeout:g} s "
                "(env_cfg.dist_cfg.timeout) to where the others wait for it"
                for rank in calls
                if int(calls[rank]) < self._calls
            ]
        more = len(found) - 4
        return found[:4] + [f"{more} more ranks likewise"] * (more > 0)

    def _answer(self) -> None:
        self._store.set(f"here/{self._rank}", str(self._calls))

    def _said(self, kind: str) -> dict[int, str]:
        """What the ranks have put into the store under such a key."""
        keys = {rank: f"{kind}/{rank}" for rank in self._everybody}
        return {x: self._store.get(y).decode() for x, y in keys.items() if self._has(y)}

    def _has(self, *keys: str) -> bool:
        return self._store.check(list(keys))

    def _name(self, rank: int) -> str:
        host, pid = self._where[rank]
        return f"Rank {rank} (host {host}, process {pid})"

    def _state(self, rank: int) -> str:
        host, pid = self._where[rank]
        if host != socket.gethostname():
            return "is gone or does not answer"
        if is_alive(pid):
            return "does not answer: it is stopped or hangs"
        return "is gone: it was killed, ran out of memory or crashed"

    def _way_out(self) -> str:
        pointer = self.work_dir / "last_checkpoint" if self.work_dir else None
        if pointer is None or not pointer.is_file():
            return "No checkpoint was written yet; start again."
        return (
            f"The last checkpoint is {read_text(pointer).strip()}; start again with "
            "--resume, or let torchrun do so (MAX_RESTARTS of tools/dist_train.sh)."
        )


_current: _Ranks | None = None


def _current_ranks(timeout: float = TIMEOUT) -> _Ranks | None:
    """The ranks of this run, None where there is only one."""
    global _current
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if dist.get_world_size() == 1:
        return None
    if _current is None or _current.world is not dist.group.WORLD:
        _current = _Ranks(timeout)
    return _current


def _own_store(prefix: str, timeout: float) -> tuple[Any, str]:
    """Connect to the store of the rendezvous once more; return it and its place.

    torch's own connection is blocked while the main thread waits for an answer over it.
    The store must take the connection within ``timeout`` seconds: where many ranks
    start at once, that takes longer than any call has later.
    """
    store: Any = rendezvous_store()
    below, place = store, "a file"
    while isinstance(below, dist.PrefixStore):
        below = below.underlying_store
    if isinstance(below, dist.TCPStore):
        place = f"{below.host}:{below.port}"
        wait = timedelta(seconds=timeout)
        store = dist.TCPStore(
            below.host, below.port, None, False, wait, wait_for_workers=False
        )
        store.set_timeout(timedelta(seconds=_ANSWER))
    return dist.PrefixStore(prefix, store), place


def _within(seconds: float, function: Callable[[], object]) -> None:
    """Call a function that may never return, for so long at most.

    No call over the store returns where the process that holds it is stopped.
    """

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            function()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
