"""A real training run on a real Slurm, preempted twice; see ``test_jobs.py``."""

from __future__ import annotations

import re

import pytest
import torch

from tests.harness import config, write_images
from tests.slurm.support import REPO, Job

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

EPOCHS, ITERS = 4, 60  # ITERS x 2 tasks x batch 4 = 480 images


def _config(images):
    """A tiny MoCo on what every pretraining run shares; no checkpoint but the last."""
    cfg = config(images, images, EPOCHS)
    cfg.train_dataloader |= {"num_workers": 1, "persistent_workers": True}
    names = ("model", "train_dataloader", "train_cfg", "optim_wrapper")
    lines = [f"{name} = {cfg._cfg_dict[name].to_dict()!r}" for name in names]
    return "\n".join(
        [
            f"_base_ = {str(REPO / 'configs/_base_/default_runtime.py')!r}",
            f"default_hooks = dict(checkpoint=dict(interval={EPOCHS}), "
            "logger=dict(interval=1))",
            "param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False, "
            f"T_max={EPOCHS * ITERS})]",
            *lines,
        ]
    )


def _iteration(job):
    """How far the log says that the run is."""
    lines = re.findall(r"Epoch\(train\) *\[(\d+)\]\[ *(\d+)/", job.log())
    return max(((int(e) - 1) * ITERS + int(i) for e, i in lines), default=0)


def test_preempted_twice_the_weights_are_the_same(cluster, tmp_path):
    text = _config(write_images(tmp_path / "images", per_class=ITERS * 4))
    env = {"OMP_NUM_THREADS": 1}
    whole = Job(cluster, tmp_path / "whole", text, stand_in=False, **env).submit()
    whole.ends("COMPLETED", restarts=0, limit=400)

    job = Job(cluster, tmp_path / "parts", text, stand_in=False, **env).submit()
    job.until(lambda: _iteration(job) > 30, 200)
    cluster.call("scancel", "--signal=USR1", job.number)
    job.until(lambda: "start 2\n" in job.log(), 100)
    at_first = _iteration(job)
    job.until(lambda: _iteration(job) > at_first + 30, 200)
    urgent = ("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null")
    other = cluster.call("sbatch", "--parsable", *urgent, "--wrap=true")
    job.ends("COMPLETED", restarts=2, limit=400)
    assert cluster.finish(int(other))["JobState"] == "COMPLETED"

    log = job.log()
    port = 15000 + job.number % 15000
    where = f"nodes: n[1-2], 2 tasks that meet at 127.0.0.1:{port}\n"
    assert log.count(where) == 3
    stops = re.findall(r"stopped by (\w+) in epoch \d+ after iteration (\d+)", log)
    assert [signal for signal, _ in stops] == ["SIGUSR1", "SIGTERM"]
    assert all(int(iteration) % ITERS for _, iteration in stops)  # inside an epoch

    ours, expected = (
        torch.load(run.work_dir / f"epoch_{EPOCHS}.pth", weights_only=True)
        for run in (job, whole)
    )
    assert ours["state_dict"].keys() == expected["state_dict"].keys()
    for name, weight in expected["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
    states = (c["optimizer"]["state"] for c in (ours, expected))
    torch.testing.assert_close(*states, rtol=0, atol=0)
