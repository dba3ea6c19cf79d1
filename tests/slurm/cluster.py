"""A Slurm cluster of two virtual nodes on this machine.

Controller, nodes and munge run in the foreground as children of this process, on ports
and sockets of their own, with everything they write in one temporary folder. A Slurm
that is installed and running is neither asked nor touched: all of its tools read
``SLURM_CONF``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.machine import free_port

NODES = ("n1", "n2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "salloc", "scontrol")
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"  # not in every user's PATH

_CONF = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=urgent Nodes=n1,n2 PriorityTier=10
"""


def missing() -> list[str]:
    """The programs of Slurm and munge that are not here."""
    return [name for name in _PROGRAMS if not _which(name)]


class Cluster:
    """What the tests ask of the cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "SALLOC_"))
        }
        self.env["SLURM_CONF"] = str(folder / "slurm.conf")

    def call(self, *command: Any) -> str:
        """Run a command of Slurm and return what it prints."""
        done = subprocess.run(
            [str(part) for part in command],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"{command} returned {done.returncode}: {done.stderr}")
        return done.stdout

    def job(self, number: int) -> dict[str, str]:
        """What ``scontrol show job`` says."""
        words = self.call("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def let_go(self, number: int) -> dict[str, str]:
        """Start a requeued job soon; Slurm would hold it for two minutes.

        Not in the second of its last end: nodes refuse credentials of that second.
        """
        job = self.job(number)
        soon = (datetime.now() + timedelta(seconds=10)).isoformat()
        if job["JobState"] == "PENDING" and job["EligibleTime"] > soon:
            self.call("scontrol", "update", f"JobId={number}", "StartTime=now+2")
        return job

    def finish(self, number: int, limit: float = 120) -> dict:
        """Wait for the end of a job, and return it."""
        going = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED")
        going += ("SIGNALING", "COMPLETING")
        end = time.monotonic() + limit
        while (job := self.let_go(number))["JobState"] in going:
            assert time.monotonic() < end, f"{job}\n{self.logs()}"
            time.sleep(0.2)
        return job

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        return "\n".join(
            f"{path.name}: ..." + path.read_text(errors="replace")[-2000:]
            for path in sorted(self.folder.glob("*.log"))
        )


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start a cluster; stop all of it and remove its folder at the end."""
    # Short, for the limit of 108 bytes on the name of a socket; munged wants everyone
    # to reach its socket, so not in pytest's private folder.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = Cluster(folder)
    daemons: list[subprocess.Popen] = []
    try:
        _write(folder)
        munge = folder / "munge"
        places = {"key-file": "key", "pid-file": "pid", "log-file": "log"}
        places |= {"socket": "socket", "seed-file": "seed"}
        options = [f"--{name}={munge}/{file}" for name, file in places.items()]
        daemons.append(_start(cluster, "munged", "--foreground", *options))
        _until((munge / "socket").exists, daemons, "munged", cluster)
        daemons.append(_start(cluster, "slurmctld", "-D", "-c"))
        for node in NODES:
            daemons.append(_start(cluster, "slurmd", "-D", "-N", node))
        wait_for_nodes(cluster, daemons)
        yield cluster
    finally:
        _stop(cluster, daemons)
        shutil.rmtree(folder, ignore_errors=True)


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def _write(folder: Path) -> None:
    """Write the configuration and munge's key."""
    (folder / "state").mkdir()
    munge = folder / "munge"
    munge.mkdir(mode=0o711)
    munge.chmod(0o711)
    (munge / "key").touch(0o600)
    (munge / "key").write_bytes(secrets.token_bytes(128))
    ports = [free_port() for _ in range(3)]
    host = socket.gethostname().split(".")[0]
    user = pwd.getpwuid(os.getuid()).pw_name
    text = _CONF.format(folder=folder, host=host, ports=ports, user=user)
    (folder / "slurm.conf").write_text(text)


def _start(cluster: Cluster, program: str, *options: str) -> subprocess.Popen:
    """Start a daemon that ends with this process, even where that is killed."""
    library = ctypes.CDLL(None)
    with open(cluster.folder / "daemons.log", "ab") as log:
        return subprocess.Popen(
            [str(_which(program)), *options],
            env=cluster.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: library.prctl(1, signal.SIGTERM),  # PR_SET_PDEATHSIG
        )


def _idle(cluster: Cluster) -> bool:
    try:
        states = cluster.call("sinfo", "--noheader", "--Node", "--format=%T")
    except RuntimeError:  # the controller does not answer yet
        return False
    return states.split() == ["idle"] * 2 * len(NODES)  # in two partitions


def wait_for_nodes(cluster: Cluster, daemons: Sequence[subprocess.Popen] = ()) -> None:
    """Wait until both nodes are idle."""
    _until(lambda: _idle(cluster), daemons, "both nodes", cluster)


def _until(
    ready: Callable[[], bool], daemons: Sequence, what: str, cluster: Cluster
) -> None:
    end = time.monotonic() + 30
    while not ready():
        ended = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]
        if ended or time.monotonic() > end:
            raise RuntimeError(f"{what} did not come up ({ended})\n{cluster.logs()}")
        time.sleep(0.1)


def _stop(cluster: Cluster, daemons: list[subprocess.Popen]) -> None:
    """Cancel the jobs, stop the daemons, and kill what still belongs to the cluster."""
    with contextlib.suppress(RuntimeError, subprocess.SubprocessError, OSError):
        cluster.call("scancel", "--partition=main")
        cluster.call("scancel", "--partition=urgent")
        end = time.monotonic() + 20
        while cluster.call("squeue", "--noheader").strip() and time.monotonic() < end:
            time.sleep(0.2)
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for pid in processes(cluster.folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while processes(cluster.folder) and time.monotonic() < end:
        time.sleep(0.1)


def processes(folder: Path) -> list[int]:
    """Processes that were started with this cluster's configuration."""
    mark = f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found
