"""Locks by file: one run per folder, one chain per folder, one process per stage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from mmssl_ext.errors import UserError
from mmssl_ext.files import head_of

from .processes import goes_on, has_ended, identity, in_sight

_PATIENCE = 10.0  # seconds that the children of a killed process have to notice it
_LEASE = 150.0  # in which a server forgets a machine that is gone (NFS: 90)
_LARGEST = 1 << 16  # bytes of what names an owner

_MOUNTS = Path("/proc/self/mountinfo")
# File systems of one machine at a time, and those that all machines share with their
# locks, unless an option says otherwise.
_LOCAL = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay"}
_SHARED = {"nfs", "nfs4", "ceph", "gpfs", "lustre"}
_OWN_LOCKS = {"nolock", "local_lock=flock", "local_lock=all", "noflock", "localflock"}


class Lock:
    """A file that a process holds open and locked, and that names the process.

    The kernel gives the lock back however the process ends: killed, in a container that
    is gone, with its machine. So a lock that can be had is free, whatever the file says
    of an owner, also of one on another machine, provided that the file system shows
    locks to every machine that shares it (:func:`locks_reach_all`).

    Elsewhere, and for a file that was written where nothing could be locked, the owner
    that the file names counts. Whether it lives can only be seen on its own host and in
    its own container; else it counts until the file is deleted, or until its own job
    goes on (:func:`~mmssl_ext.engine.resilience.processes.goes_on`).

    Args:
        path: The file.
        what: Name of the locked thing for the message.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._written: dict[str, Any] = {}
        self._file = -1
        self._by_kernel = False  # where the file system can

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
            owner, by_kernel = refusal
            # Children of its owner may have it still; so has a machine that is gone,
            # whose job was requeued here, until the server of the files forgets it.
            orphaned = by_kernel and in_sight(owner) and has_ended(owner)
            patience = _PATIENCE if orphaned else 0.0
            if by_kernel and goes_on(owner):
                patience = _LEASE
            if time.monotonic() - start >= patience:
                raise UserError(self._refusal(owner, by_kernel, orphaned))
            time.sleep(0.1)
        try:
            yield self
        finally:
            if self._file >= 0:  # not in a fork
                self._release()

    @property
    def inheritable(self) -> tuple[int, ...]:
        """File descriptors by which a child holds the lock too (``pass_fds``)."""
        return (self._file,) if self._by_kernel else ()

    def give_to(self, pid: int) -> None:
        """Let the lock name a child: it may outlive the process that started it."""
        self._written = identity(pid) | {"held": self._by_kernel}
        text = json.dumps(self._written).encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))

    def _take(self) -> tuple[dict[str, Any], bool] | None:
        """Take the lock, or return who has it and whether the kernel says so."""
        while True:
            file, writable = self._open()
            try:
                locked, works = lock_descriptor(file, blocking=False), True
            except OSError:  # a file system without locks
                locked, works = False, False
            owner = self._read()
            busy = works and not locked
            if busy or (owner is not None and self._counts(owner, locked)):
                os.close(file)
                return owner or {}, busy
            if self._is_at_path(file):
                if writable and stat.S_ISREG(os.fstat(file).st_mode):
                    self._begin(file, locked)
                    return None
                self.path.unlink(missing_ok=True)  # another user's, or no file
            os.close(file)

    def _open(self) -> tuple[int, bool]:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), True
        except PermissionError:  # of another user: enough to see whether it is held
            return os.open(self.path, os.O_RDONLY), False

    def _counts(self, owner: dict[str, Any], locked: bool) -> bool:
        """Whether an owner has the lock still, although this process may have it."""
        if locked and owner.get("held"):
            same_boot = owner.get("boot") == identity(os.getpid())["boot"]
            if same_boot or locks_reach_all(self.path):
                return False
        return not (has_ended(owner) if in_sight(owner) else goes_on(owner))

    def _refusal(self, owner: dict[str, Any], by_kernel: bool, orphaned: bool) -> str:
        since = f" since {owner['since']}" if owner.get("since") else ""
        known = f"process {owner['pid']} on {owner['host']}{since}" if owner else ""
        if orphaned:
            return (
                f"{self.what} is in use by what {known} has started and left behind. "
                f"Stop that (fuser {self.path} shows it)."
            )
        certain = (
            "" if by_kernel else f"; if it is gone for certain, delete {self.path}"
        )
        return (
            f"{self.what} is in use by {known or 'another process'}. "
            f"Wait for it or stop it{certain}."
        )

    def _read(self) -> dict[str, Any] | None:
        try:
            # Of a pipe, which would be waited for, nothing is read.
            owner = json.loads(head_of(self.path, _LARGEST).decode("utf-8"))
            pid = owner["pid"]
            can_be = type(pid) is int and 0 < pid < 1 << 31 and "job" in owner
            return owner if can_be and "host" in owner else None
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def _begin(self, file: int, locked: bool) -> None:
        self._file, self._by_kernel = file, locked
        _open_locks.add(self)
        try:
            self.give_to(os.getpid())
        except OSError:
            self.path.unlink(missing_ok=True)
            self.close()
            raise

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            if self._read() == self._written and self._is_at_path(self._file):
                self.path.unlink()  # else somebody has replaced it
        self.close()

    def close(self) -> None:
        """Let go of the file and leave it there, as a killed process does."""
        _open_locks.discard(self)
        with contextlib.suppress(OSError):
            os.close(self._file)
        self._file, self._by_kernel = -1, False

    def _is_at_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except OSError:
            return False


_open_locks: set[Lock] = set()


def _close_in_fork() -> None:
    """Workers that outlive a killed process must not hold its locks."""
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_in_fork)


def locks_reach_all(path: Path) -> bool:
    """Whether a lock (flock) on a file is seen by all machines that see the file.

    False where it is not known: other file systems may keep locks to the machine.
    """
    try:
        device = os.stat(path).st_dev
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        mount, _, source = line.partition(" - ")
        if mount.split()[2:3] == [number]:
            kind, options = source.split()[0], set(re.split("[ ,]", line))
            return kind in _LOCAL or (kind in _SHARED and not options & _OWN_LOCKS)
    return False
