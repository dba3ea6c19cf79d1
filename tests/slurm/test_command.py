"""What tools/slurm_train.sh asks of Slurm, with stand-ins for Slurm's commands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.slurm.support import SCRIPT, script_env

ODD = ["--cfg-options", "a=it's", 'b="two  words"', "c=$HOME `id`"]
ODD += ["d=*;\\n\ttab\nline"]

# Notes its arguments, separated by NUL, and its input.
FAKE = """\
#!/usr/bin/env bash
printf '%s\\0' "${0##*/}" "$@" >> {calls}/${0##*/}
case ${0##*/} in
    sbatch) cat > {calls}/stdin; echo "41;cluster" ;;
    scontrol)
        case $* in
            *hostnames*) printf 'a\\nb\\n' ;;
            *node*) echo "NodeName=a NodeAddr=a.local OS=x" ;;
        esac
        ;;
    srun) exit ${SRUN_CODE:-0} ;;
esac
"""


class Fakes:
    """The commands of Slurm, and what they were called with."""

    def __init__(self, folder):
        self.folder = folder
        self.calls = folder / "calls"
        (folder / "bin").mkdir()
        self.calls.mkdir()
        for name in ("sbatch", "srun", "salloc", "scontrol", "squeue", "scancel"):
            program = folder / "bin" / name
            program.write_text(FAKE.replace("{calls}", str(self.calls)))
            program.chmod(0o755)
        (folder / "config.py").touch()

    def run(self, *command, stdin="", **env):
        """Run a command where the fakes are found first."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        path = f"{self.folder / 'bin'}:{clean['PATH']}"
        return subprocess.run(
            command or (str(SCRIPT), "part", "job", "config.py", *ODD),
            cwd=self.folder,
            env=clean | script_env(self.folder / "run") | {"PATH": path} | env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
        )

    def batch(self, **env):
        """Run the job that was submitted."""
        job = {"SLURM_JOB_ID": "15041", "SLURM_JOB_NODELIST": "[a-b]"} | env
        return self.run("bash", stdin=(self.calls / "stdin").read_text(), **job)

    def arguments(self, name):
        """All that a command was called with."""
        file = self.calls / name
        return file.read_text().split("\0")[:-1] if file.exists() else []


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path)


def test_submits_what_the_tradition_asks_for(fakes):
    env = {"GPUS": "16", "GPUS_PER_NODE": "8", "CPUS_PER_TASK": "6", "TIME": "2-0"}
    env |= {"GRES": "gpu:a100:8", "SIGNAL_TIME": "300"}
    done = fakes.run(**env, SBATCH_ARGS="--qos=low  --mem=0")
    assert done.returncode == 0, done.stderr
    log = fakes.folder / "run" / "slurm" / "job"
    assert done.stdout == f"Submitted batch job 41; log: {log}-41.log\n"
    assert log.parent.is_dir()
    options = fakes.arguments("sbatch")
    for option in (
        *("--partition=part", "--job-name=job", "--nodes=2", "--ntasks=16"),
        *("--ntasks-per-node=8", "--cpus-per-task=6", "--gres=gpu:a100:8"),
        *("--time=2-0", "--signal=USR1@300", "--requeue", "--open-mode=append"),
        *("--qos=low", "--mem=0", f"--output={log}-%j.log"),
    ):
        assert option in options


def test_gpus_and_time_unless_told(fakes):
    fakes.run(GRES="")
    assert not re.search("--(gres|time)=", " ".join(fakes.arguments("sbatch")))
    fakes.run("env", "-u", "GRES", str(SCRIPT), "part", "job", "config.py", GPUS="4")
    assert "--gres=gpu:1" in fakes.arguments("sbatch")


def test_arguments_survive_the_job_script(fakes):
    fakes.run()
    done = fakes.batch()
    assert done.returncode == 0, done.stderr
    called = fakes.arguments("srun")
    script = called.index(str(SCRIPT.with_name("train.py")))
    assert called[script - 2 : script] == [sys.executable, "-u"]
    assert called[script + 1 :] == [
        *("config.py", "--launcher", "slurm", "--work-dir", str(fakes.folder / "run")),
        *(*ODD, "--resume"),
    ]
    # 15000 + 15041 % 15000
    assert "2 tasks that meet at a.local:15041\n" in done.stdout


def test_the_work_dir_may_be_an_option(fakes):
    fakes.run(str(SCRIPT), "part", "job", "config.py", "--work-dir", "x y", "--amp")
    assert (fakes.folder / "x y" / "slurm").is_dir()
    fakes.batch()
    after = fakes.arguments("srun")[-6:]
    assert after == ["--work-dir", "x y", "--work-dir", "x y", "--amp", "--resume"]


@pytest.mark.parametrize(
    ("code", "restarts", "most", "requeued"),
    [
        *((code, 0, 100, True) for code in (75, 138, 143)),  # 138: while it started
        *((code, 0, 100, False) for code in (0, 1, 2, 3, 137)),
        *((75, 99, None, True), (75, 100, None, False), (75, 2, 2, False)),
    ],
)
def test_requeues_only_what_goes_on(fakes, code, restarts, most, requeued):
    fakes.run()
    env = {} if most is None else {"MAX_REQUEUES": str(most)}
    done = fakes.batch(SRUN_CODE=str(code), SLURM_RESTART_COUNT=str(restarts), **env)
    assert done.returncode == code
    called = fakes.arguments("scontrol")
    assert (called[-2:] == ["requeue", "15041"]) == ("requeue" in called) == requeued


def test_an_allocation_of_the_users_is_not_requeued(fakes):
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a", "SLURM_NTASKS": "3"}
    done = fakes.run(**job, GPUS="", CPUS_PER_TASK="", SRUN_CODE="75")
    assert done.returncode == 75, done.stderr
    assert not fakes.arguments("sbatch")
    assert "requeue" not in fakes.arguments("scontrol")
    options = fakes.arguments("srun")
    assert "--ntasks=3" in options and "--cpus-per-task=1" in options


def test_the_foreground_asks_for_an_allocation(fakes):
    fakes.run(SRUN="1", SBATCH_ARGS="--qos=low")
    called = fakes.arguments("salloc")
    assert {"--partition=part", "--ntasks=2", "--qos=low"} < set(called)
    expected = ["bash", str(SCRIPT), "part", "job", "config.py", *ODD]
    assert called[-len(expected) :] == expected


WRONG = """\
GPUS=two: GPUS is 'two'; it must be a number.
GPUS=0: must be above 0.
GPUS=12 GPUS_PER_NODE=8: GPUS=12 does not fill nodes of GPUS_PER_NODE=8.
SIGNAL_TIME=2m: SIGNAL_TIME is '2m'; it must be a number.
STAGE_FROM=.: staging needs both STAGE_FROM and STAGE_TO.
STAGE_TO=/scratch: staging needs both STAGE_FROM and STAGE_TO.
STAGE_FROM=gone STAGE_TO=/scratch: STAGE_FROM gone does not exist.
STAGE_FROM=config.py STAGE_TO=/scratch: STAGE_FROM config.py is neither a folder nor
STAGE_FROM=. STAGE_TO=scratch: must be an absolute path
STAGE_FROM=. 'STAGE_TO=/a b': must be an absolute path
PYTHON=no/python: no program 'no/python' here; set PYTHON.
"""


@pytest.mark.parametrize("case", WRONG.splitlines())
def test_wrong_use_is_one_sentence(fakes, case):
    env, _, sentence = case.partition(": ")
    done = fakes.run(**dict(x.split("=") for x in shlex.split(env)))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("slurm_train.sh: ")
    assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert not fakes.arguments("sbatch")


def test_wrong_arguments_are_one_sentence(fakes):
    done = fakes.run(str(SCRIPT), "part", "job")
    assert done.returncode == 2 and done.stderr.startswith("Usage: ")
    done = fakes.run(str(SCRIPT), "part", "job", "gone.py")
    assert done.returncode == 2
    assert "config gone.py does not exist (looked from " in done.stderr


def test_a_machine_without_slurm(fakes):
    plain = fakes.folder / "plain"
    plain.mkdir()
    for name in ("bash", "basename", "dirname"):
        (plain / name).symlink_to(str(shutil.which(name)))
    done = fakes.run(PATH=str(plain))
    assert done.returncode == 2 and "there is no Slurm here" in done.stderr
