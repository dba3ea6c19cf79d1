"""tools/slurm_train.sh on a real Slurm of two virtual nodes; training is a stand-in.

These tests take a minute and a half and need Slurm: ``make test-slurm`` installs and
runs them, ``pytest -m slurm`` only runs them.
"""

from __future__ import annotations

import tarfile
import time
from typing import Any

import pytest

from tests.slurm.cluster import wait_for_nodes
from tests.slurm.support import UNTIL_STOPPED, Job

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]

ODD = ["--cfg-options", "a=it's", 'b="two  words"', "c=$HOME", "d=*;\\n\ttab\nline"]


def test_a_job_starts_a_task_per_node_and_says_where(cluster, tmp_path, monkeypatch):
    monkeypatch.setitem(cluster.env, "NCCL_DEBUG", "WARN two")
    monkeypatch.setitem(cluster.env, "SECRET_TOKEN", "hidden")
    program = "say(args=sys.argv[1:], **{k: os.environ[k] for k in %r})" % [
        *("SLURMD_NODENAME", "SLURM_NTASKS", "MASTER_ADDR", "MASTER_PORT"),
    ]
    job = Job(cluster, tmp_path, program).submit(*ODD)
    job.ends("COMPLETED", restarts=0)
    said = sorted(job.said(), key=lambda one: one["rank"])
    assert [one["SLURMD_NODENAME"] for one in said] == ["n1", "n2"]
    port = str(15000 + job.number % 15000)
    expected = ["config.py", "--launcher", "slurm", "--work-dir", str(job.work_dir)]
    for one in said:
        assert (one["SLURM_NTASKS"], one["MASTER_PORT"]) == ("2", port)
        assert one["MASTER_ADDR"] == "127.0.0.1"  # address of n1 in slurm.conf
        assert one["args"] == [*expected, *ODD, "--resume"]
    log = job.log()
    for text in (
        f"job {job.number} (a job), start 1\n",
        f"nodes: n[1-2], 2 tasks that meet at 127.0.0.1:{port}\n",
        "environment: NCCL_DEBUG=WARN\\ two\n",
        "command: srun ",
        "finished\n",
    ):
        assert f"{text}" in log
    assert "hidden" not in log


def test_usr1_saves_requeues_and_resumes(cluster, tmp_path):
    # Rank 1 leaves at once; rank 0 takes its time to save and must get it.
    program = UNTIL_STOPPED.replace(
        "sys.exit", "time.sleep(3 * stopped * (rank == 0)); say(saved=1); sys.exit"
    )
    job = Job(cluster, tmp_path, program).submit("--resume", "given.pth")
    job.until_ready()
    (job.work_dir / "last_checkpoint").write_text("iter_7.pth")
    cluster.call("scancel", "--signal=USR1", job.number)
    job.ends("COMPLETED", restarts=1)
    assert [s["signal"] for s in job.said("signal")] == ["SIGUSR1"] * 2
    assert len(job.said("saved")) == 4
    first, last = (
        {tuple(s["args"][5:]) for s in job.said("args") if s["start"] == start}
        for start in (0, 1)
    )
    assert first == {("--resume", "given.pth")}
    assert last == {("--resume", "given.pth", "--resume")}  # the newest checkpoint
    log = job.log()  # of both starts in one file
    assert "start 1\n" in log and "start 2\n" in log and "saved; requeued\n" in log


def test_a_cancelled_job_stays_cancelled(cluster, tmp_path):
    job = Job(cluster, tmp_path, UNTIL_STOPPED).submit()
    job.until_ready()
    cluster.call("scancel", job.number)
    job.ends("CANCELLED", restarts=0, code=75)
    assert {s["signal"] for s in job.said("signal")} == {"SIGTERM"}
    time.sleep(1)
    assert cluster.job(job.number)["JobState"] == "CANCELLED"
    assert "caught SIGTERM: Slurm ends the job\n" in job.log()


def test_a_node_fails(cluster, tmp_path):
    job = Job(cluster, tmp_path, UNTIL_STOPPED).submit()
    job.until_ready()
    cluster.call("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    # The node comes back by itself.
    job.ends("COMPLETED", restarts=1)
    wait_for_nodes(cluster)


@pytest.mark.parametrize("signal", ["USR1", "TERM"])
def test_a_signal_to_the_shell_alone_is_passed_on(cluster, tmp_path, signal):
    job = Job(cluster, tmp_path, UNTIL_STOPPED).submit()
    job.until_ready()
    cluster.call("scancel", "--batch", f"--signal={signal}", job.number)
    job.ends("COMPLETED", restarts=1)
    assert f"caught SIG{signal}, passed on\n" in job.log()
    assert [s["signal"] for s in job.said("signal")] == ["SIGUSR1"] * 2


def test_a_signal_before_training_listens(cluster, tmp_path):
    deaf = "if start == 0: signal.signal(signal.SIGUSR1, signal.SIG_DFL)\n"
    job = Job(cluster, tmp_path, deaf + UNTIL_STOPPED).submit()
    job.until_ready()
    cluster.call("scancel", "--signal=USR1", job.number)
    job.ends("COMPLETED", restarts=1)
    assert "exit code 138: stopped by a signal before it could save" in job.log()


def test_the_time_limit_asks_to_save(cluster, tmp_path):
    job = Job(cluster, tmp_path, UNTIL_STOPPED, TIME=1, SIGNAL_TIME=20).submit()
    # Slurm looks every 30 s, and rather sends the signal too early.
    job.ends("COMPLETED", restarts=1)
    assert [s["signal"] for s in job.said("signal")] == ["SIGUSR1"] * 2


def test_staging_copies_once(cluster, tmp_path):
    source, target = tmp_path / "shards", tmp_path / "disk" / "data" / "shards"
    source.mkdir()
    (source / "0.tar").write_bytes(b"first")
    (tmp_path / "elsewhere").write_bytes(b"second")
    (source / "1.tar").symlink_to("../elsewhere")
    (target.parent / "shards.part").mkdir(parents=True)  # an interrupted copy
    (target.parent / "shards.part" / "2.tar").write_bytes(b"half")
    program = (
        "root = Path(sys.argv[sys.argv.index('--cfg-options') + 1].split('=')[1])\n"
        "say(files={p.name: p.read_text() for p in root.glob('*.tar')})"
    )
    env: dict[str, Any] = {"STAGE_FROM": source, "STAGE_TO": target}
    job = Job(cluster, tmp_path, program, **env).submit()
    job.ends("COMPLETED", restarts=0)
    assert [s["files"] for s in job.said()] == [
        {"0.tar": "first", "1.tar": "second"}
    ] * 2
    # Both nodes have the same disk here: one copies, the other finds it.
    assert job.log().count("staged on n") == job.log().count("staged before on n") == 1
    assert not (target / "1.tar").is_symlink()
    assert sorted(p.name for p in target.parent.iterdir()) == ["shards", "shards.lock"]

    job.submit().ends("COMPLETED", restarts=0)
    assert job.log().count("staged before on n") == 3

    (source / "2.tar").write_bytes(b"third")  # what is there is no copy any more
    job.submit().ends("FAILED", restarts=0, code=2)
    assert "shards is not a copy of" in job.log()
    assert len(job.said()) == 4  # training did not start


def test_staging_unpacks_a_tar(cluster, tmp_path):
    (tmp_path / "image").write_bytes(b"pixels")
    with tarfile.open(tmp_path / "data.tar", "w") as file:
        file.add(tmp_path / "image", "train/a/image")
    target = tmp_path / "disk"
    env: dict[str, Any] = {"STAGE_FROM": tmp_path / "data.tar", "STAGE_TO": target}
    program = "say(args=sys.argv[1:])"
    job = Job(cluster, tmp_path, program, STAGE_KEY="root", **env).submit("--amp")
    job.ends("COMPLETED", restarts=0)
    assert (target / "train/a/image").read_bytes() == b"pixels"
    assert job.said()[0]["args"][5:] == [
        *("--cfg-options", f"root={target}", "--amp", "--resume"),
    ]


def test_staging_that_fails_leaves_nothing(cluster, tmp_path):
    (tmp_path / "data.tar").write_bytes(b"no tar" * 1000)
    env: dict[str, Any] = {
        "STAGE_FROM": tmp_path / "data.tar",
        "STAGE_TO": tmp_path / "disk",
    }
    job = Job(cluster, tmp_path, "say(started=1)", **env).submit()
    job.ends("FAILED", restarts=0, code=2)
    assert not list(tmp_path.glob("disk*[!k]")) and not job.said()
