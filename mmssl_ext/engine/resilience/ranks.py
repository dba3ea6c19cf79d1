"""The ranks of a run: their start, and who of them is gone where one does not come."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing

from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.errors import Preempted, RankError
from mmssl_ext.files import read_text
from mmssl_ext.text import printable

from .lock import is_alive

T = TypeVar("T")

TIMEOUT = 600.0  # seconds that ranks wait for one another, unless the config says

_POLL = 0.5  # seconds between two looks of a rank for an alarm
_ANSWER = 5.0  # seconds that a rank has to answer an alarm
_LEAVE = 60.0  # seconds that a rank then has to leave by itself

# Where a launcher other than torchrun tells rank, number and rank on the node.
_VARIABLES = {
    "slurm": "SLURM_PROCID SLURM_NTASKS SLURM_LOCALID",
    "mpi": "OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK",
}
_COLLECTIVE = re.compile(
    r"gloo|NCCL|ProcessGroup|Connection (closed|reset)|Broken pipe|TCPStore|FileStore"
)


def start_ranks(cfg: Config) -> None:
    """Let the ranks of a prepared config find one another, unless they have.

    Raises:
        RankError: Not all of them came in time.
    """
    if cfg.launcher == "none" or dist.is_initialized():
        return
    options = cfg.env_cfg.dist_cfg
    try:
        if get_device() == "cpu":  # mmengine's launchers would select a GPU
            _tell_torch(cfg.launcher)
            timeout = timedelta(seconds=options.timeout)
            dist.init_process_group(options.backend, timeout=timeout)
        else:
            mp_cfg = cfg.env_cfg.get("mp_cfg") or {}
            set_multi_processing(**mp_cfg, distributed=True)
            init_dist(cfg.launcher, **options)
    except RuntimeError as error:
        if not _is_collective(error):
            raise
        address, port = (os.environ.get(f"MASTER_{x}") for x in ("ADDR", "PORT"))
        raise RankError(
            f"The {os.environ.get('WORLD_SIZE')} ranks did not find one another at "
            f"{address}:{port} within {options.timeout:g} s: {_line(error)}. Check "
            "that every node has started and reaches this address, and that the port "
            "is not used by another run."
        ) from error


def current() -> Ranks | None:
    """Return the ranks of this run, None where there is only one."""
    global _current
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if dist.get_world_size() == 1:
        return None
    if _current is None or _current.world is not dist.group.WORLD:
        _current = Ranks(_timeout)
    return _current


_current: Ranks | None = None
_timeout = TIMEOUT


@contextlib.contextmanager
def watched(work_dir: str | Path, timeout: float = TIMEOUT) -> Iterator[None]:
    """Say which rank is gone where something fails for that, while this lasts.

    Args:
        work_dir: Of the run, for the name of its last checkpoint.
        timeout: Seconds that ranks wait for one another.

    Raises:
        RankError: In place of the error of a collective.
    """
    global _current, _timeout
    _timeout = timeout
    ranks = current()
    if ranks is None:
        yield
        return
    ranks.work_dir = Path(work_dir)
    try:
        yield
        ranks.maximum(0)  # one that leaves early would be missed by the others
        ranks.leave()
    except BaseException as error:
        lost = error
        own = isinstance(error, (RankError, KeyboardInterrupt))
        if not own and _is_collective(error):
            lost = ranks.lost(error)
        if not isinstance(lost, RankError):
            ranks.leave(error)
            raise
        ranks.leave()
        if not lost.logged:
            print_log(str(lost), logger="current", level=logging.ERROR)
        raise lost from error.__cause__ if lost is error else error
    finally:
        _current, _timeout = None, TIMEOUT


class Ranks:
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
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.timeout = timeout
        self.work_dir: Path | None = None
        self._calls = 0
        self._code = torch.zeros(1, dtype=torch.int64)
        self._answers: set[int] = set()
        self._speakers: set[int] = set()
        self._found: list[str] | None = None  # None: nothing was found out
        self._judged = threading.Event()
        self._left = threading.Event()
        self._served_by_launcher = (
            os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        )
        self.group = dist.new_group(timeout=timedelta(seconds=timeout), backend="gloo")
        # One store may serve several runs, one after the other.
        known: list[Any] = [None] * self.size
        me = socket.gethostname(), os.getpid(), secrets.token_hex(8)
        dist.all_gather_object(known, me, group=self.group)
        self._where = [(host, pid) for host, pid, _ in known]
        self._store = _Store(f"mmssl_ext/{known[0][2]}", timeout)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        atexit.register(self._end)  # Python must not end in the middle of a call

    def maximum(self, code: int) -> int:
        """Return the largest of the codes that the ranks give."""
        self._calls += 1
        self._code.fill_(code)
        try:
            dist.all_reduce(self._code, op=dist.ReduceOp.MAX, group=self.group)
        except RuntimeError as error:
            raise self.lost(error) from error
        return int(self._code)

    def from_first(self, function: Callable[[], T]) -> T:
        """Return on all ranks what a function returns on rank 0."""
        self._calls += 1
        value: list[Any] = [function() if self.rank == 0 else None]
        try:
            dist.broadcast_object_list(value, src=0, group=self.group)
        except RuntimeError as error:
            raise self.lost(error) from error
        return value[0]

    def lost(self, error: BaseException | None) -> RankError:
        """Return an error that names who is gone, failed or does not come."""
        with _undisturbed():
            _within(_ANSWER, lambda: self._store.set("alarm", ""))
            self._judged.wait(2 * _ANSWER)
        found = self._found
        if found is None and self._served_by_launcher:
            found = [
                f"The store of the rendezvous at {self._store.place} does not answer: "
                "torchrun on its first node is gone or stopped"
            ]
        elif found is None:
            found = [f"{self._name(0)}, which has the store, {self._state(0)}"]
        if not found:
            found = [f"The ranks have lost one another: {_line(error)}"]
        lost = RankError(f"{'; '.join(found)}. {self._way_out()}")
        lost.logged = self.rank != min([*self._speakers, self.rank])  # one says it
        return lost

    def leave(self, error: BaseException | None = None) -> None:
        """Answer for the last time; an error is what the others are told."""
        self._end()
        words = "" if error is None else f"{type(error).__name__}: {_line(error)}"
        if isinstance(error, Preempted):  # all ranks have agreed on it
            words = ""

        def say() -> None:
            if words:
                self._store.set(f"words/{self.rank}", words)
            self._answer()  # last: who has answered has said all
            if words:
                self._store.set("alarm", "")
            self._store.set(f"heard/{self.rank}", "")
            if self.rank == 0 and not self._served_by_launcher:
                # The store ends with this process: let the others read it first.
                known = self._answers or range(self.size)
                heard = [f"heard/{rank}" for rank in known]
                while self._store.has("alarm") and not self._store.has(*heard):
                    time.sleep(_POLL / 2)

        _within(2 * _ANSWER, say)

    def _end(self) -> None:
        self._left.set()
        self._thread.join(2 * _POLL)

    def _watch(self) -> None:
        """Find out what an alarm is about; then see to it that this rank leaves."""
        try:
            while not self._store.has("alarm"):
                if self._left.wait(_POLL):
                    return
            self._found = self._causes(*self._ask())
            self._store.set(f"heard/{self.rank}", "")
        except RuntimeError:  # the store is gone; whoever needs it will say so
            return
        finally:
            self._judged.set()
        if self._left.wait(_LEAVE):
            return
        lost = self.lost(None)
        if not lost.logged:
            print(printable(f"Error: {lost}"), file=sys.stderr, flush=True)
        _within(_LEAVE, wait_for_checkpoints)
        os._exit(lost.exit_code)

    def _answer(self) -> None:
        self._store.set(f"here/{self.rank}", str(self._calls))

    def _ask(self) -> tuple[dict[int, str], dict[int, str]]:
        """Collect for a while how often ranks have agreed, and last words.

        Only that which is missing in the end is looked for rank by rank.
        """
        self._answer()
        end = time.monotonic() + _ANSWER
        everybody = [f"here/{rank}" for rank in range(self.size)]
        while not self._store.has(*everybody) and time.monotonic() < end:
            time.sleep(_POLL / 2)
        found: tuple[dict[int, str], dict[int, str]] = {}, {}
        for rank in range(self.size):
            for kind, values in zip(("here", "words"), found, strict=True):
                if self._store.has(f"{kind}/{rank}"):
                    values[rank] = self._store.get(f"{kind}/{rank}")
        self._answers = set(found[0])
        self._speakers = self._answers - set(found[1])
        return found

    def _causes(self, answers: dict[int, str], words: dict[int, str]) -> list[str]:
        """Say of every rank that is not well what is known; name four at most."""
        found = [f"{self._name(rank)} stopped by {words[rank]}" for rank in words]
        for rank in sorted(set(range(self.size)) - set(answers)):
            found.append(f"{self._name(rank)} {self._state(rank)}")
        if not found:
            found = [
                f"{self._name(rank)} did not come within {self.timeout:g} s "
                "(env_cfg.dist_cfg.timeout) to where the others wait for it"
                for rank, calls in answers.items()
                if int(calls) < self._calls
            ]
        more = len(found) - 4
        return found[:4] + [f"{more} more ranks likewise"] * (more > 0)

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


class _Store:
    """A connection of its own to the store of the rendezvous.

    That of torch is blocked while the main thread waits for an answer over it.

    Args:
        prefix: Of all keys.
        timeout: Seconds until the store must take the connection. Where many ranks
            start at once, that takes longer than any call has later.
    """

    def __init__(self, prefix: str, timeout: float) -> None:
        store: Any = dist.distributed_c10d._get_default_store()
        self.place = "a file"
        below = store
        while isinstance(below, dist.PrefixStore):
            below = below.underlying_store
        if isinstance(below, dist.TCPStore):
            self.place = f"{below.host}:{below.port}"
            store = dist.TCPStore(
                *(below.host, below.port),
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=timeout),
            )
            store.set_timeout(timedelta(seconds=_ANSWER))
        self._store = dist.PrefixStore(prefix, store)

    def has(self, *keys: str) -> bool:
        """Whether all keys are there."""
        return self._store.check(list(keys))

    def get(self, key: str) -> str:
        """Return the value of a key that is there."""
        return self._store.get(key).decode()

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self._store.set(key, value)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a launcher that already stops this rank not cut its last sentence off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _within(seconds: float, function: Callable[[], object]) -> bool:
    """Call a function that may never return; whether it did in time, without error.

    No call over the store returns where the process that holds it is stopped.
    """
    done = threading.Event()

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            function()
            done.set()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return done.is_set()


def _is_collective(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, comes from a collective."""
    while error is not None:
        known = isinstance(error, RuntimeError) and _COLLECTIVE.search(str(error))
        if known or isinstance(error, dist.DistError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _line(error: BaseException | None) -> str:
    """The message of an error, short enough for a sentence."""
    lines = str(error).strip().splitlines() or ["no message"]
    return lines[0][:300]


def _tell_torch(launcher: str) -> None:
    """Set the variables that torch reads, as mmengine does where there is a GPU."""
    if launcher in _VARIABLES:
        for name, source in zip(
            ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
            _VARIABLES[launcher].split(),
            strict=True,
        ):
            os.environ[name] = os.environ[source]
        os.environ.setdefault("MASTER_PORT", "29500")
    if launcher == "slurm" and "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        names = subprocess.run(command, capture_output=True, text=True, check=True)
        os.environ["MASTER_ADDR"] = names.stdout.split()[0]
