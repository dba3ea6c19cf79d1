"""A stand-in for tools/train.py, and jobs of tools/slurm_train.sh."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.slurm.cluster import Cluster

REPO = Path(__file__).resolve().parents[2]
SCRIPT = REPO / "tools" / "slurm_train.sh"

# Runs the config as a program that can `say` what it sees to a file of the work dir.
STAND_IN = """\
import json, os, signal, sys, time
from pathlib import Path

rank, start = int(os.environ["SLURM_PROCID"]), os.environ.get("SLURM_RESTART_COUNT", 0)
work_dir = Path(sys.argv[sys.argv.index("--work-dir") + 1])
work_dir.mkdir(exist_ok=True)

def say(**what):
    line = json.dumps(dict(what, rank=rank, start=int(start), time=time.time()))
    with open(work_dir / "said", "a") as file:
        file.write(line + "\\n")

def stop(number, _):
    say(signal=signal.Signals(number).name)
    global stopped
    stopped = True

def wait(seconds):  # or less, where a signal comes
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stopped:
        time.sleep(0.02)

stopped = False
signal.signal(signal.SIGUSR1, stop)
signal.signal(signal.SIGTERM, stop)
exec(open(sys.argv[1]).read())
"""

# Goes on until it is stopped, and is not stopped a second time.
UNTIL_STOPPED = """\
say(ready=True, args=sys.argv[1:])
wait(60 if start == 0 else 0.2)
sys.exit(75 if stopped else 0)
"""


class Job:
    """A job of the script.

    Args:
        cluster: Where it runs.
        folder: Of the config and the run.
        config: Text of the config.
        stand_in: Run a copy of the script that has the stand-in beside it.
        env: Environment variables of the script.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        config: str,
        stand_in: bool = True,
        **env: Any,
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.work_dir = folder / "run"
        self.script = SCRIPT
        folder.mkdir(exist_ok=True)
        (folder / "config.py").write_text(config)
        if stand_in:
            tools = folder / "tools"
            tools.mkdir(exist_ok=True)
            self.script = Path(shutil.copy(SCRIPT, tools))
            (tools / "train.py").write_text(STAND_IN)
        self.env = script_env(work_dir=self.work_dir, **env)
        self.number = 0

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Call the script."""
        return subprocess.run(
            (str(self.script), "main", "a job", "config.py", *options),
            cwd=self.folder,
            env=self.cluster.env | self.env,
            capture_output=True,
            text=True,
            timeout=90,
        )

    def submit(self, *options: str) -> Job:
        """Call the script and note the number of the job."""
        done = self.run(*options)
        assert done.returncode == 0, done.stderr
        self.number = int(done.stdout.split(";")[0].split()[-1])
        return self

    def ends(
        self, state: str, restarts: int, code: int = 0, limit: float = 180
    ) -> None:
        """Wait for the job's end, which must be like this."""
        end = self.cluster.finish(self.number, limit)
        found = end["JobState"], int(end["Restarts"]), end["ExitCode"].split(":")[0]
        assert found == (state, restarts, str(code)), f"{end}\n{self.log()[-4000:]}"

    def until(self, reached: Callable[[], bool], limit: float = 60) -> None:
        """Wait until the job has got somewhere."""
        end = time.monotonic() + limit
        while not reached():
            if time.monotonic() > end:
                job, log = self.cluster.job(self.number), self.log()[-3000:]
                raise TimeoutError(f"{job}\n{self.said()}\n{log}")
            self.cluster.let_go(self.number)
            time.sleep(0.1)

    def until_ready(self) -> None:
        """Wait until both tasks of the stand-in listen for signals."""
        self.until(lambda: len(self.said("ready")) == 2)

    def said(self, key: str = "") -> list[dict]:
        """What the tasks said, all or that with a key."""
        file = self.work_dir / "said"
        lines = file.read_text().splitlines() if file.exists() else []
        said = [json.loads(line) for line in lines]
        return [one for one in said if not key or key in one]

    def log(self) -> str:
        """The log of the job."""
        return "".join(p.read_text() for p in (self.work_dir / "slurm").glob("*.log"))


def script_env(work_dir: Path, **env: Any) -> dict[str, str]:
    """Variables of the script for two tasks on two nodes without GPUs."""
    return {
        "WORK_DIR": str(work_dir),
        "PYTHON": sys.executable,
        "GPUS": "2",
        "GPUS_PER_NODE": "1",
        "CPUS_PER_TASK": "1",
        "GRES": "",
    } | {name: str(value) for name, value in env.items()}
