"""A run that is killed and resumed ends with the bits of one that never stopped."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from PIL import Image

from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from tests.harness import RunHarness, assert_same, config, stop_at
from tests.models.common import ALGORITHMS, CELL_ALGORITHMS, model_config

IMAGES, BATCH, LENGTH, EPOCHS = 18, 4, 4, 3  # an epoch leaves two images out
STEPS = LENGTH * EPOCHS
FAST = ("InterCLR", "RegionCLD", "BYOL")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Noise of many frequencies, half of it as JPEG."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((40, 36)).save(root / f"{i}.{'jpg' if i % 2 else 'png'}")
    return root


def run_config(
    algorithm: str, images: Path, work_dir: Path, every: int = 2, **loader: Any
) -> Config:
    """A run of 3 epochs of 4 iterations; a checkpoint after ``every`` iterations."""
    size = 64 if algorithm in CELL_ALGORITHMS else 24
    view = [
        {"type": "RandomResizedCrop", "size": size, "scale": [0.3, 1.0]},
        {"type": "ColorJitter", "brightness": 0.4, "hue": 0.1, "prob": 0.8},
        {"type": "RandomFlip", "prob": 0.5},
    ]
    cut = {"type": "CutPatches", "size": 8, "grid": 3}
    views = [view, view] + [[*view, cut]] * 2 * (algorithm == "DetCo")
    read: list[dict] = [{"type": "DecodeImage"}]
    if algorithm == "BGSwaps":  # a third view is made of two images
        read.append({"type": "LoadMask", "masks": "border"})
        donors = {"type": "ImageFolder", "root": str(images), "pipeline": read}
        swap = {"type": "SwapSubject", "donors": donors, "valid": [0, 1]}
        views.append([view[0], swap, *view[1:]])
    cfg = config(images, work_dir, EPOCHS)
    cfg.train_dataloader.update({"batch_size": BATCH, **loader})
    cfg.train_dataloader.dataset.labels = "none"
    cfg.train_dataloader.dataset.pipeline = [
        *read,
        {"type": "MakeViews", "views": views},
        {"type": "PackViews"},
    ]
    cfg.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 5},
        {"type": "CosineAnnealingLR", "T_max": 3, "begin": 1, "by_epoch": True},
    ]
    saves = {"by_epoch": False, "interval": every, "max_keep_ckpts": 2}
    cfg.default_hooks.checkpoint.update(saves)
    cfg.default_hooks.update(
        runtime_info={"type": "DeferredRuntimeInfoHook"},
        resume={"type": "ExactResumeHook"},
        collapse={"type": "CollapseMonitorHook", "interval": 3},
        logger={"type": "LoggerHook", "interval": 1},
    )
    cfg.log_processor = {"window_size": 5}
    cfg.model = model_config(algorithm)
    cfg.custom_hooks = []
    if "bn_splits" in cfg.model:
        cfg.model.bn_splits = 2
        cfg.model.queue_len = 26  # wraps around in the middle of a batch
    if algorithm == "InterCLR":
        cfg.model.pseudo_labels.update(num_clusters=4, min_size=2, interval=3)
        warm_up = {"start": 0, "end": 0.25, "until": 1, "unit": "epoch"}
        cfg.model.loss_lambda = {"kind": "step", **warm_up}
        steps = {"type": "DecodeImage"}, {"type": "CenterCrop", "size": 24}
        pipeline = [*steps, {"type": "PackViews"}]
        cfg.model.images = {"batch_size": 4, "pipeline": pipeline}
        # The last interval ends an epoch.
        cfg.custom_hooks.append({"type": "PseudoLabelHook", "interval": 2})
    if algorithm in ("DenseCL", "RegionCLD"):
        cfg.model.loss_lambda = {"kind": "step", "start": 0, "end": 0.5, "until": 5}
    if algorithm == "BYOL":
        cfg.model.momentum = {"kind": "cosine", "start": 0.8, "end": 1}
        cfg.model.terms = [{"type": "UnMix"}]  # whose draws follow from the step
    if algorithm in ("SimSiam", "RegionCLS", "BYOL"):
        cfg.custom_hooks.append({"type": "FixedRateHook"})
        fixed = {"predictor": {"fix_lr": True}}
        cfg.optim_wrapper.paramwise_cfg = {"custom_keys": fixed}
    return cfg


class Noise(Hook):
    """A method that draws from every generator of every rank, between two steps."""

    priority = "HIGH"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        weight = next(runner.model.parameters()).data
        drawn = np.random.randn() + random.gauss(0, 1) + random.random()
        noise = torch.randn_like(weight) + drawn
        all_reduce(noise)
        weight += 1e-3 * noise


class Seen(Hook):
    """Note which images a rank trains on."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        images = [sample.sample_idx for sample in data_batch["data_samples"]]
        with Path(runner.work_dir, f"seen_{runner.rank}.txt").open("a") as file:
            file.write(json.dumps([runner.iter, images]) + "\n")


class Kill(Hook):
    """SIGKILL at a place, at the given iteration (from 1).

    Behind an iteration or an epoch its checkpoint is complete; before one it may not.
    """

    priority = "LOWEST"

    def __init__(self, place: str, iteration: int) -> None:
        self.at = place, iteration

    def _reach(self, place: str, iteration: int) -> None:
        if self.at == (place, iteration):
            if place != "before":
                wait_for_checkpoints()
            os.kill(os.getpid(), signal.SIGKILL)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._reach("before", runner.iter + 1)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._reach("after", runner.iter + 1)

    def before_train_epoch(self, runner):
        self._reach("epoch", runner.iter + 1)


def harness(cfg: Config) -> RunHarness:
    return RunHarness.of(cfg, Noise(), Seen())


def assert_resumed(whole: Path, work_dir: Path) -> None:
    """Every line that any part of a run wrote, and its end, are the whole run's."""
    one, other = (RunHarness(folder) for folder in (whole, work_dir))
    expected = {row["step"]: row for row in one.curve()}
    rows = other.curve()
    assert len(expected) == STEPS and {row["step"] for row in rows} == set(expected)
    assert len({row["loss"] for row in expected.values()}) == STEPS
    assert all(math.isfinite(row["loss"]) for row in rows)
    for row in rows:  # also those that were written twice
        assert row == expected[row["step"]]
    assert_same(one.end(STEPS), other.end(STEPS))


def places(algorithm: str) -> list[tuple[str, int]]:
    """Two kills, one of them where an epoch begins or ends."""
    rng = random.Random(f"{algorithm}kill")
    edge = rng.choice([("epoch", 5), ("epoch", 9), ("after", 4), ("after", 8)])
    inside = rng.choice(["before", "after"]), rng.choice([3, 6, 7, 10, 11])
    return sorted([edge, inside], key=lambda place: place[1])


@pytest.mark.fault("R5", "R22")
@pytest.mark.parametrize(
    "algorithm",
    [a if a in FAST else pytest.param(a, marks=pytest.mark.slow) for a in ALGORITHMS],
)
def test_killed_runs_end_as_whole_ones(algorithm, images, tmp_path):
    """Killed twice, at chance places, and resumed each time."""
    every = 1 + ALGORITHMS.index(algorithm) % 3
    harness(run_config(algorithm, images, tmp_path / "whole", every)).run()
    killed = harness(run_config(algorithm, images, tmp_path / "killed", every))
    for i, kill in enumerate(places(algorithm)):
        killed.run(Kill(*kill), resume=i > 0, code=None)
    killed.run(resume=True)
    assert_resumed(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.fault("R5", "R6")
def test_workers_may_change_at_every_resume(images, tmp_path):
    """Killed inside an epoch each time; the whole run has one worker."""
    harness(run_config("MoCo", images, tmp_path / "whole", num_workers=1)).run()
    kills = [(2, ("before", 4)), (0, ("after", 7)), (3, None)]
    for i, (workers, kill) in enumerate(kills):
        loader = {"num_workers": workers, "persistent_workers": workers == 2}
        killed = harness(run_config("MoCo", images, tmp_path / "killed", **loader))
        hooks = [Kill(*kill)] if kill else []
        killed.run(*hooks, resume=i > 0, code=None if kill else 0)
    assert_resumed(tmp_path / "whole", tmp_path / "killed")


def seen(work_dir: Path) -> dict[int, list[int]]:
    """Images of all ranks by iteration, those of a rank together."""
    found: dict[int, list[int]] = {}
    for file in sorted(work_dir.glob("seen_*.txt")):
        last = dict(map(json.loads, file.open()))
        for i, of_rank in last.items():
            found[i] = found.get(i, []) + of_rank
    return found


@pytest.mark.fault("R5", "R7")
def test_ranks_resume_exactly_and_fewer_ranks_in_the_same_order(images, tmp_path):
    """Both ranks are killed; then two go on, or one with twice their batch."""

    def two(name: str) -> RunHarness:
        cfg = run_config("CO2", images, tmp_path / name, batch_size=BATCH // 2)
        cfg.randomness.diff_rank_seed = True
        return harness(cfg)

    whole = two("whole")
    whole.run(ranks=2)
    generators = whole.end(STEPS)["state"]["random"]
    assert len(generators) == 2
    assert not torch.equal(generators[0]["torch"], generators[1]["torch"])
    two("killed").run(Kill("before", 7), ranks=2, code=None)
    shutil.copytree(tmp_path / "killed", tmp_path / "one")
    two("killed").run(resume=True, ranks=2)
    assert_resumed(tmp_path / "whole", tmp_path / "killed")

    expected = seen(tmp_path / "whole")
    assert len(set(map(tuple, expected.values()))) == STEPS
    for file in tmp_path.glob("one/seen_*.txt"):
        file.unlink()
    printed = harness(run_config("CO2", images, tmp_path / "one")).run(resume=True)
    found = seen(tmp_path / "one")
    assert list(found) == list(range(min(found), STEPS)) and min(found) in (4, 6)
    for i in found:
        assert sorted(found[i]) == sorted(expected[i])
    assert "was written by 2 ranks, now there are 1" in printed
    assert "Every iteration sees the same images as before" in printed

    refused = two("one").run(resume=True, code=2)  # half of the batch
    assert "images per iteration" in refused and "4 = 1 x 4 -> 2 = 1 x 2" in refused
    assert "Set train_dataloader.batch_size=4" in refused


def test_an_epoch_that_was_stopped_at_its_end_ends_once(images, tmp_path):
    """One iteration of k-means at the end of an epoch: two would be another state."""

    def run(name: str) -> Config:
        cfg = run_config("InterCLR", images, tmp_path / name, every=STEPS)
        labels = {"num_clusters": 6, "num_iters": 1, "interval": 1}
        cfg.model.pseudo_labels = {"type": "OfflineLabels", **labels}
        cfg.model.loss_lambda = 0.25
        return cfg

    # As a signal does while kNN runs, between two hooks that end an epoch.
    stop = stop_at(0, "after_train_epoch", "BELOW_NORMAL")
    RunHarness.of(run("whole"), Noise()).train()
    stopped = RunHarness.of(run("stopped"), Noise())
    runner = stopped.train(stop, stops=True)
    hook = next(x for x in runner.hooks if hasattr(x, "save_now"))
    file = hook.save_now(runner)
    assert (runner.epoch, runner.iter) == (0, LENGTH)
    stopped.train(resume=file)
    assert_resumed(tmp_path / "whole", tmp_path / "stopped")
