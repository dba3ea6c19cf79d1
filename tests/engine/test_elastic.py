"""A rank of a training run is killed: the others leave, and a restart goes on exactly.

The fast test forks the ranks and starts them again itself; the slow ones let two
torchruns do it, as on two nodes.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from mmssl_ext.registry import HOOKS
from mmssl_ext.run.launch import train
from tests.distributed import wait_for
from tests.harness import REPO, RunHarness, assert_same, config, write_images
from tests.machine import free_port

# 16 images in batches of 2 on 2 ranks: 4 iterations per epoch, 12 in all. The victim
# falls in the second epoch, of which nothing is saved.
STEP, LAST = 6, 12


@HOOKS.register_module(force=True)
class MeetFaults(Hook):
    """Kill some rank at some step, which the file ``fault`` names, and only once."""

    priority = "LOWEST"  # the other ranks are in their step meanwhile

    def __init__(self, file):
        self.file = Path(file)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        here = f"{runner.rank} {runner.iter}"
        if self.file.exists() and self.file.read_text() == here:
            self.file.rename(self.file.with_name("met"))
            print("pid of the victim:", os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a config of a run of 12 iterations on two ranks, bitwise repeatable."""
    folder = tmp_path_factory.mktemp("elastic")
    write_images(folder / "images")
    hooks = {"resume": "ExactResumeHook", "preemption": "PreemptionHook"}
    hooks = {name: {"type": kind} for name, kind in hooks.items()}
    cfg = config(folder / "images", folder / "run", epochs=3, **hooks)
    cfg.train_dataloader.batch_size = 2
    cfg.custom_imports = {"imports": ["tests.engine.test_elastic"]}
    cfg.custom_hooks = [{"type": "MeetFaults", "file": str(folder / "fault")}]
    cfg.env_cfg.dist_cfg = {"backend": "gloo", "timeout": 20.0}
    (folder / "small.py").write_text(cfg.pretty_text)
    return folder


class Launched:
    """A run as tools/train.py starts it, of which rank 1 may look elsewhere."""

    def __init__(self, file, work_dirs, launcher, resume):
        rank = int(os.environ["RANK"])
        options = {"launcher": launcher, "resume": resume}
        self.train = partial(train, file, work_dir=str(work_dirs[rank]), **options)


def harness(folder, *work_dirs):
    """One work_dir for each rank, or one for both."""
    build = partial(Launched, folder / "small.py", (*work_dirs, *work_dirs))
    return RunHarness(work_dirs[0], build)


def assert_same_end(work_dir, expected):
    found = final(work_dir)
    assert found["meta"]["iter"] == expected["meta"]["iter"] == LAST
    for part in ("state_dict", "optimizer", "param_schedulers"):
        assert_same(found[part], expected[part])


def final(work_dir):
    return torch.load(work_dir / "epoch_3.pth", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(folder):
    """The last checkpoint of a run of two ranks that nothing happened to."""
    work_dir = folder / "whole"
    harness(folder, work_dir).run(ranks=2, seconds=120)
    return final(work_dir)


@pytest.mark.fault("R28", "R5")
def test_a_rank_falls_and_all_start_again(folder, uninterrupted):
    work_dir = folder / "fast"
    (folder / "fault").write_text(f"1 {STEP}")
    with harness(folder, work_dir).start(ranks=2) as ranks:
        first, second = ranks
        wait_for(ranks, 60)
        assert first.code == 5, first.text
        error = re.search(r"^Error: (.*)$", first.text, re.MULTILINE)[1]
        rank = f"Rank 1 (host {os.uname().nodename}, process {second.process.pid})"
        assert f"{rank} is gone: it was killed" in error
        assert f"The last checkpoint is {work_dir / 'epoch_1.pth'}" in error
        assert error in "".join(p.read_text() for p in work_dir.glob("*/*.log"))
    assert not (work_dir / "epoch_3.pth").exists()
    printed = harness(folder, work_dir).run(ranks=2, resume=True, seconds=60)
    assert f"Resuming from {work_dir / 'epoch_1.pth'}" in printed
    assert_same_end(work_dir, uninterrupted)


@pytest.mark.fault("R28")
def test_nodes_that_see_other_checkpoints_follow_rank_0(folder, uninterrupted):
    """Rank 1 looks into a folder with nothing to resume, as over a slow NFS."""
    work_dir = folder / "seen"
    work_dir.mkdir()
    (folder / "fault").write_text(f"0 {STEP}")
    with harness(folder, work_dir).start(ranks=2) as ranks:
        wait_for(ranks, 60)
        assert [rank.code for rank in ranks] == [-signal.SIGKILL, 5]
    empty = folder / "not-yet-seen"
    harness(folder, work_dir, empty).run(ranks=2, resume=True, seconds=60)
    assert_same_end(work_dir, uninterrupted)


# torchrun


@contextlib.contextmanager
def nodes(folder, work_dir, count=2, gpus=1, **variables):
    """Start tools/dist_train.sh on so many nodes, all of them here."""
    env = os.environ | {
        "PYTHONPATH": str(REPO),
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "NNODES": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "PORT": str(free_port()),
        **variables,
    }
    work_dir.mkdir()
    script = REPO / "tools" / "dist_train.sh"
    command = ["bash", str(script), "small.py", str(gpus), "--work-dir", str(work_dir)]
    started = []
    for rank in range(count):
        with (work_dir / f"node{rank}.txt").open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=env | {"NODE_RANK": str(rank)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
    try:
        yield started
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def said(work_dir):
    return "".join(p.read_text() for p in sorted(work_dir.glob("node*.txt")))


@pytest.mark.slow
@pytest.mark.fault("R28")
def test_two_nodes_one_rank_killed(folder):
    work_dir = folder / "two-nodes"
    (folder / "fault").write_text(f"1 {STEP}")
    with nodes(folder, work_dir) as started:
        codes = [process.wait(180) for process in started]
    text = said(work_dir)
    assert all(codes), text
    victim = re.search(r"pid of the victim: (\d+)", text)[1]
    named = rf"Rank 1 \(host \S+, process {victim}\) is gone: it was killed"
    assert re.search(rf"^Error: {named}", text, re.MULTILINE), text
    # torchrun's own summary has the sentence too
    assert re.search(rf"traceback : {named}", text), text


@pytest.mark.slow
@pytest.mark.fault("R28", "R5")
@pytest.mark.parametrize("victim", [0, 1])
def test_two_nodes_start_again_and_go_on_exactly(folder, uninterrupted, victim):
    work_dir = folder / f"restarted-{victim}"
    (folder / "fault").write_text(f"{victim} {STEP}")
    with nodes(folder, work_dir, MAX_RESTARTS="2") as started:
        codes = [process.wait(280) for process in started]
    text = said(work_dir)
    assert codes == [0, 0], text
    assert f"Rank {victim} (host " in text
    assert f"Resuming from {work_dir / 'epoch_1.pth'}" in text
    assert_same_end(work_dir, uninterrupted)


@pytest.mark.slow
@pytest.mark.fault("R8")
@pytest.mark.parametrize("notice", [signal.SIGTERM, signal.SIGUSR1])
def test_a_notice_to_torchrun_saves_the_run(folder, uninterrupted, notice):
    work_dir = folder / f"notice-{notice.name}"
    with contextlib.suppress(FileNotFoundError):
        (folder / "fault").unlink()
    with nodes(folder, work_dir, count=1, gpus=2) as (only,):
        deadline = time.monotonic() + 200
        while not (work_dir / "epoch_1.pth").exists():
            assert only.poll() is None and time.monotonic() < deadline, said(work_dir)
            time.sleep(0.01)
        only.send_signal(notice)
        only.wait(60)
    text = said(work_dir)
    assert f"{notice.name}: stopping" in text, text
    assert "Everything is saved" in text, text
    harness(folder, work_dir).run(ranks=2, resume=True, seconds=60)
    assert_same_end(work_dir, uninterrupted)
