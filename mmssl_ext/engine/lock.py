"""Locks by file: one chain per work dir, one process per stage."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError


class Lock:
    """A file that names the process which holds it.

    A lock whose process is gone is taken over, as is that of the same Slurm job before
    it was requeued. Whether a process on another host lives cannot be seen from here,
    so its lock counts until the file is deleted.

    Args:
        path: The file.
        what: Name of the locked thing for the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what

    @contextlib.contextmanager
    def held(self) -> Iterator[Lock]:
        """Hold the lock.

        Raises:
            UserError: Another process holds it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while not self._take():
            owner = self.owner()
            if owner is not None:
                raise UserError(
                    f"{self.what} is in use by process {owner.get('pid')} on "
                    f"{owner.get('host')}. Wait for it or stop it; if it is gone for "
                    f"certain, delete {self.path}."
                )
            self.path.unlink(missing_ok=True)
        try:
            yield self
        finally:
            self.path.unlink(missing_ok=True)

    def give_to(self, pid: int) -> None:
        """Let the lock name a child: it may outlive the process that started it."""
        draft = self.path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(_identity(pid)), encoding="utf-8")
        draft.replace(self.path)

    def owner(self) -> dict[str, Any] | None:
        """Return who holds the lock, None where nobody living does."""
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            pid, host, job = (owner[key] for key in ("pid", "host", "job"))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if job and job == os.environ.get("SLURM_JOB_ID") and pid != os.getpid():
            return None
        if host != socket.gethostname():
            return owner
        same = owner.get("start") == _start(pid)
        return owner if same and _is_alive(pid) else None

    def _take(self) -> bool:
        draft = self.path.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(_identity(os.getpid())), encoding="utf-8")
        try:
            os.link(draft, self.path)  # fails where the file exists, also over NFS
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True


def _identity(pid: int) -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    return {"pid": pid, "host": socket.gethostname(), "job": job, "start": _start(pid)}


def _start(pid: int) -> str | None:
    """Start time of a process: process numbers are used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
