"""Who a process is, whether it lives, and whether another one goes on with its run."""

from __future__ import annotations

import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Any


def identity(pid: int) -> dict[str, Any]:
    """What tells a process of this machine from all others, also later and elsewhere.

    Returns:
        Its number and start time (numbers are used again), the host, the boot of its
        kernel and the namespace that numbers its processes (containers have one
        each), the Slurm job or torchrun that started it, and the time now.
    """
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


def is_alive(pid: int) -> bool:
    """Whether a process of this host runs or is stopped, but has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _stat(pid)[:1] != ["Z"]


def in_sight(owner: dict[str, Any]) -> bool:
    """Whether it can be seen from here if a process that this describes has ended.

    Descriptions by version 0.1 lack some of what :func:`identity` says.
    """
    here = identity(os.getpid())
    same_container = owner.get("pids", here["pids"]) == here["pids"]
    return owner.get("host") == here["host"] and (same_container or _rebooted(owner))


def has_ended(owner: dict[str, Any]) -> bool:
    """Whether a process that is in sight has ended."""
    same = not _rebooted(owner) and owner.get("start") == _start(owner["pid"])
    return not same or not is_alive(owner["pid"])


def goes_on(owner: dict[str, Any]) -> bool:
    """Whether this process goes on with the run of an owner that is out of sight.

    That is the same Slurm job once it was requeued, and workers that the same torchrun
    started again, perhaps with another node in front.
    """
    here = identity(os.getpid())
    if here["job"] and here["job"] == owner.get("job"):
        return here["requeued"] > owner.get("requeued", -1)
    return bool(here["torchrun"]) and here["torchrun"] == owner.get("torchrun")


def starter() -> dict[str, Any]:
    """Who starts this run, to know it again: a Slurm job, or a torchrun that lives.

    Returns:
        ``job`` and ``requeued``, and of a torchrun its name and, of the process above
        this one, ``agent``.
    """
    here, agent = identity(os.getpid()), None
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
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    if restarts == 0 or not (agent and old):
        return False
    moved = agent[0] != old[0]  # the first rank is on another machine now
    named = here["torchrun"] is not None and here["torchrun"] == before.get("torchrun")
    return agent == old or (moved and named)


def _rebooted(owner: dict[str, Any]) -> bool:
    return owner.get("boot", _boot()) != _boot()


def _boot() -> str | None:
    return _read("/proc/sys/kernel/random/boot_id")


def _start(pid: int) -> str | None:
    return next(iter(_stat(pid)[19:]), None)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on."""
    return (_read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _namespace() -> str | None:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None
