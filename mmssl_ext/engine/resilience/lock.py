"""Locks by file: one run per folder, one chain per folder, one process per stage."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from mmssl_ext.errors import UserError
from mmssl_ext.files import head_of

from .mounts import locks_reach_all

_PATIENCE = 10.0  # seconds that the children of a killed process have to notice it
_LARGEST = 1 << 16  # bytes of what names an owner
_LEASE = (
    150.0  # in which a server forgets the locks of a machine that is gone (NFS: 90)
)


class Lock:
    """A file that a process holds open and locked, and that names the process.

    The kernel gives the lock back however the process ends: killed, in a container that
    is gone, with its machine. So a lock that can be had is free, whatever the file says
    of an owner, also where that owner was on another machine, provided that the file
    system shows locks to every machine that shares it
    (:func:`~mmssl_ext.engine.resilience.mounts.locks_reach_all`).

    Elsewhere, and for a file that a version without held locks wrote, the owner that
    the file names counts. Whether it lives can only be seen on its own host and in its
    own container; else it counts until the file is deleted. Two know better, that the
    owner has ended: the same Slurm job once it was requeued, and workers that the same
    torchrun started again, perhaps with another node in front.

    Args:
        path: The file.
        what: Name of the locked thing for the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._written: dict[str, Any] = {}
        self._file = -1
        self._held = False  # by the kernel, where the file system can
        self._process = -1

    @contextlib.contextmanager
    def held(self) -> Iterator[Lock]:
        """Hold the lock.

        Raises:
            UserError: Another process holds it.
            OSError: The file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        while (refusal := self._take()) is not None:
            owner, held = refusal
            orphaned = held and _is_gone(owner)
            # A job that was requeued because its machine is gone.
            goes_on = held and _goes_on(owner, _identity(os.getpid()))
            patience = _LEASE if goes_on else _PATIENCE if orphaned else 0.0
            if time.monotonic() - start >= patience:
                raise UserError(self._refusal(owner, held, orphaned))
            time.sleep(0.1)
        try:
            yield self
        finally:
            if os.getpid() == self._process:
                self._release()

    @property
    def inheritable(self) -> tuple[int, ...]:
        """File descriptors by which a child holds the lock too (``pass_fds``)."""
        return (self._file,) if self._held else ()

    def give_to(self, pid: int) -> None:
        """Let the lock name a child: it may outlive the process that started it."""
        with _one_at_a_time(self.path.parent):
            self._write(pid)

    def _take(self) -> tuple[dict[str, Any], bool] | None:
        """Take the lock, or return who has it and whether the kernel says so."""
        with _one_at_a_time(self.path.parent):
            while True:
                file = self._open()
                try:
                    held, works = lock_descriptor(file, blocking=False), True
                except OSError:  # a file system without locks
                    held, works = False, False
                owner = self._read()
                if works and not held:
                    os.close(file)
                    return owner or {}, True
                if owner is not None and self._counts(owner, held):
                    os.close(file)
                    return owner, False
                found = os.fstat(file)
                empty = stat.S_ISREG(found.st_mode) and found.st_size == 0
                new = empty and _is_at(file, self.path)
                if new:
                    self._file, self._held = file, held
                    self._process = os.getpid()
                    _open_files.add(file)
                    self._write_or_release()
                    return None
                if _is_at(file, self.path):  # what an owner left that is gone
                    self.path.unlink(missing_ok=True)
                os.close(file)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # of another user: enough to see whether it is held
            return os.open(self.path, os.O_RDONLY)

    def _counts(self, owner: dict[str, Any], held: bool) -> bool:
        """Whether an owner still has the lock, ``held`` now by this process or not."""
        here = _identity(os.getpid())
        one_kernel = owner.get("boot") == here["boot"]
        if held and owner.get("held") and (one_kernel or locks_reach_all(self.path)):
            return False
        rebooted = owner.get("boot", here["boot"]) != here["boot"]
        other_pids = owner.get("pids", here["pids"]) != here["pids"]
        if owner["host"] != here["host"] or (other_pids and not rebooted):
            return not _goes_on(owner, here)
        if rebooted or owner.get("start") != _start(owner["pid"]):
            return False
        return is_alive(owner["pid"])

    def _refusal(self, owner: dict[str, Any], held: bool, orphaned: bool) -> str:
        since = f" since {owner['since']}" if owner.get("since") else ""
        known = f"process {owner['pid']} on {owner['host']}{since}" if owner else ""
        if orphaned:
            return (
                f"{self.what} is in use by what {known} has started and left behind. "
                f"Stop that (fuser {self.path} shows it)."
            )
        certain = "" if held else f"; if it is gone for certain, delete {self.path}"
        return (
            f"{self.what} is in use by {known or 'another process'}. "
            f"Wait for it or stop it{certain}."
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            # Of a pipe, which would be waited for, nothing is read.
            owner = json.loads(head_of(self.path, _LARGEST).decode("utf-8"))
            named = {"pid", "host", "job"} <= owner.keys()
            return owner if named and _is_pid(owner["pid"]) else None
        except (OSError, ValueError, AttributeError, RecursionError):
            return None

    def _write(self, pid: int) -> None:
        self._written = _identity(pid) | {"held": self._held}
        text = json.dumps(self._written).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def _write_or_release(self) -> None:
        try:
            self._write(os.getpid())
        except OSError:
            self.path.unlink(missing_ok=True)
            self._close()
            raise

    def _release(self) -> None:
        try:
            with contextlib.suppress(OSError), _one_at_a_time(self.path.parent):
                mine = self._read() == self._written and _is_at(self._file, self.path)
                if mine:  # not taken over since
                    self.path.unlink()
        finally:
            self._close()

    def _close(self) -> None:
        _open_files.discard(self._file)
        os.close(self._file)
        self._file, self._held = -1, False


_open_files: set[int] = set()


def _close_in_child() -> None:
    """Workers that outlive a killed process must not hold its locks."""
    for file in _open_files:
        with contextlib.suppress(OSError):
            os.close(file)
    _open_files.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _is_pid(value: Any) -> bool:
    """Whether this can be the number of a process, of whatever machine."""
    return type(value) is int and 0 < value < 1 << 31


def is_alive(pid: int) -> bool:
    """Whether a process of this host runs or is stopped, but has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _stat(pid)[:1] != ["Z"]


def starter() -> dict[str, Any]:
    """Who starts this run, to know it again: a Slurm job, or a torchrun that lives.

    Returns:
        ``job`` and ``requeued``, and of a torchrun its name and, of the process above
        this one, ``agent``.
    """
    here, agent = _identity(os.getpid()), None
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        parent = os.getppid()
        agent = [here["boot"], here["pids"], parent, _start(parent)]
    known = {name: here[name] for name in ("job", "requeued", "torchrun")}
    return known | {"agent": agent}


def started_by(before: dict[str, Any]) -> bool:
    """Whether this process is a further start by whom :func:`starter` described."""
    here = starter()
    same_job = here["job"] and here["job"] == before.get("job")
    if same_job and here["requeued"] > before.get("requeued", -1):
        return True
    agent, old = here["agent"], before.get("agent")
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) == 0 or not (
        agent and old
    ):
        return False
    moved = agent[0] != old[0]  # the first rank is on another machine now
    named = here["torchrun"] is not None and here["torchrun"] == before.get("torchrun")
    return agent == old or (moved and named)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether an owner that can be seen from here has ended."""
    here = _identity(os.getpid())
    if any(owner.get(name) != here[name] for name in ("host", "boot", "pids")):
        return False
    pid = owner["pid"]
    return owner.get("start") != _start(pid) or not is_alive(pid)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still is the one of this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _goes_on(owner: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether this process goes on with the run of an owner out of sight."""
    if here["job"] and here["job"] == owner.get("job"):
        return here["requeued"] > owner.get("requeued", -1)
    return bool(here["torchrun"]) and here["torchrun"] == owner.get("torchrun")


def _identity(pid: int) -> dict[str, Any]:
    run = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "requeued": int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        "torchrun": run if run != "none" else None,
        "start": _start(pid),
        "boot": _boot(),
        "pids": _namespace(),
    }


def _start(pid: int) -> str | None:
    """Start time of a process: process numbers are used again."""
    return next(iter(_stat(pid)[19:]), None)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    """Containers on one host number their processes each for itself."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let no other process of this host judge or change a lock in the folder."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # as far as the file system can
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
