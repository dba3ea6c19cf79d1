"""Locks by file: one run per work dir, one chain per folder, one process per stage."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import UserError


class Lock:
    """A file that names the process which holds it.

    A lock whose process is gone is taken over. Whether a process lives can only be seen
    on its own host and, where containers share a host, in its own container; elsewhere
    its lock counts, also over NFS, until the file is deleted. Two know better, that the
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

    @contextlib.contextmanager
    def held(self) -> Iterator[Lock]:
        """Hold the lock.

        Raises:
            UserError: Another process holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(self.path.parent):
            while not self._take():
                owner = self.owner()
                if owner is not None:
                    since = f" since {owner['since']}" if owner.get("since") else ""
                    raise UserError(
                        f"{self.what} is in use by process {owner.get('pid')} on "
                        f"{owner.get('host')}{since}. Wait for it or stop it; if it is "
                        f"gone for certain, delete {self.path}."
                    )
                self.path.unlink(missing_ok=True)
        try:
            yield self
        finally:
            with contextlib.suppress(OSError), _one_at_a_time(self.path.parent):
                if self._read() == self._written:  # not taken over since
                    self.path.unlink()

    def give_to(self, pid: int) -> None:
        """Let the lock name a child: it may outlive the process that started it."""
        self._draft(pid).replace(self.path)

    def owner(self) -> dict[str, Any] | None:
        """Return who holds the lock, None where nobody living does."""
        owner, here = self._read(), _identity(os.getpid())
        if owner is None:
            return None
        rebooted = owner.get("boot", here["boot"]) != here["boot"]
        other_pids = owner.get("pids", here["pids"]) != here["pids"]
        if owner["host"] != here["host"] or (other_pids and not rebooted):
            return None if _goes_on(owner, here) else owner
        if rebooted or owner.get("start") != _start(owner["pid"]):
            return None
        return owner if is_alive(owner["pid"]) else None

    def _read(self) -> dict[str, Any] | None:
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            return owner if {"pid", "host", "job"} <= owner.keys() else None
        except (OSError, ValueError, AttributeError, RecursionError):
            return None

    def _draft(self, pid: int) -> Path:
        self._written = _identity(pid)
        draft = self.path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self._written), encoding="utf-8")
        return draft

    def _take(self) -> bool:
        draft = self._draft(os.getpid())
        try:
            os.link(draft, self.path)  # fails where the file exists, also over NFS
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if self.path.exists():
                return False
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        return True


def is_alive(pid: int) -> bool:
    """Whether a process of this host runs or is stopped, but has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _stat(pid)[:1] != ["Z"]


def _goes_on(owner: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether this process goes on with the run of an owner out of sight."""
    if here["job"] and here["job"] == owner["job"]:
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
