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

import mmengine.runner.runner as runner_module
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from PIL import Image

from mmssl_ext.engine import UserError
from mmssl_ext.engine.checkpoint import find_resumable, load_checkpoint_file
from mmssl_ext.engine.checkpoint_writing import wait_for_checkpoints
from tests.distributed import wait_for, workers
from tests.engine.support import config, make_runner
from tests.models.common import ALGORITHMS, CELL_ALGORITHMS, model_config

IMAGES, BATCH, LENGTH, EPOCHS = 18, 4, 4, 3  # an epoch leaves two images out
STEPS = LENGTH * EPOCHS
FAST = ("InterCLR", "RegionCLD", "SimSiam")
TIMES = {"time", "data_time", "img_per_s", "data_wait", "memory", "eta"}


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
    views = [view, view]
    if algorithm == "DetCo":
        cut = {"type": "CutPatches", "size": 8, "grid": 3}
        views += [[*view, cut], [*view, cut]]
    cfg = config(images, work_dir, EPOCHS)
    cfg.train_dataloader.update({"batch_size": BATCH, **loader})
    cfg.train_dataloader.dataset.labels = "none"
    cfg.train_dataloader.dataset.pipeline = [
        {"type": "DecodeImage"},
        {"type": "MakeViews", "views": views},
        {"type": "PackViews"},
    ]
    cfg.param_scheduler = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 5},
        {"type": "CosineAnnealingLR", "T_max": 3, "begin": 1, "by_epoch": True},
    ]
    cfg.default_hooks.update(
        runtime_info={"type": "DeferredRuntimeInfoHook"},
        checkpoint={
            "type": "PlainCheckpointHook",
            "by_epoch": False,
            "interval": every,
            "max_keep_ckpts": 2,
        },
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
        feature_pass = {
            "type": "PseudoLabelHook",
            "dataloader": {"batch_size": 4, "num_workers": 0},
            "pipeline": [
                {"type": "DecodeImage"},
                {"type": "CenterCrop", "size": 24},
                {"type": "PackViews"},
            ],
            "interval": 2,  # the last one ends an epoch
            "warmup_epochs": 1,
        }
        cfg.custom_hooks.append(feature_pass)
    if algorithm in ("DenseCL", "RegionCLD"):
        cfg.custom_hooks.append({"type": "DenseCLHook", "start_iters": 5})
    if algorithm in ("SimSiam", "RegionCLS"):
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


def train(rank: int, cfg: dict, kill: tuple[str, int] | None, resume: bool) -> int:
    runner_module.collect_env = dict  # runs a compiler, which takes long
    cfg = Config(cfg)
    extra = [Noise(), Seen()] + ([Kill(*kill)] if kill else [])
    launcher = "pytorch" if int(os.environ["WORLD_SIZE"]) > 1 else "none"
    try:
        make_runner(cfg, *extra, launcher=launcher, resume=resume).train()
    except UserError as error:
        print(error)
        return error.exit_code
    return 0


def start(
    cfg: Config,
    kill: tuple[str, int] | None = None,
    resume: bool = False,
    ranks: int = 1,
    code: int = 0,
) -> str:
    """Train in processes of their own; return what rank 0 printed."""
    folder = Path(cfg.work_dir) / "output"
    with workers(train, ranks, folder, cfg.to_dict(), kill, resume) as found:
        wait_for(found, 100)
        if kill:
            assert -signal.SIGKILL in [w.code for w in found], found[0].text
        else:
            assert [w.code for w in found] == [code] * ranks, found[0].text
        return found[0].text


def curve(work_dir: Path) -> list[dict]:
    """All lines of the JSON logs of a run, in the order of writing, without times."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    rows = [json.loads(x) for file in files for x in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def final(work_dir: Path) -> dict:
    """What the last checkpoint says of the run, without paths and times."""
    file, passed_over = find_resumable(work_dir)
    assert file is not None and not passed_over
    found = load_checkpoint_file(file)
    assert found["meta"]["iter"] == STEPS
    hub = found["message_hub"]
    scalars = {
        key: value
        for key, value in hub["log_scalars"].items()
        if key.split("/")[-1] not in TIMES
    }
    state = {k: v for k, v in found["training_state"].items() if k != "config"}
    parts = ("state_dict", "optimizer", "param_schedulers")
    return {"scalars": scalars, "state": state} | {name: found[name] for name in parts}


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, and of the same types."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), (where, a.keys() ^ b.keys())
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif isinstance(a, HistoryBuffer):
        for x, y in zip(a.data, b.data, strict=True):
            assert x.tolist() == y.tolist(), where
    else:
        assert a == b or (a != a and b != b), (where, a, b)


def assert_resumed(whole: Path, work_dir: Path) -> None:
    """Every line that any part of a run wrote, and its end, are the whole run's."""
    expected = {row["step"]: row for row in curve(whole)}
    rows = curve(work_dir)
    assert len(expected) == STEPS and {row["step"] for row in rows} == set(expected)
    assert len({row["loss"] for row in expected.values()}) == STEPS
    assert all(math.isfinite(row["loss"]) for row in rows)
    for row in rows:  # also those that were written twice
        assert row == expected[row["step"]]
    assert_same(final(whole), final(work_dir))


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
    start(run_config(algorithm, images, tmp_path / "whole", every))
    for i, kill in enumerate([*places(algorithm), None]):
        cfg = run_config(algorithm, images, tmp_path / "killed", every)
        start(cfg, kill, resume=i > 0)
    assert_resumed(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.fault("R5", "R6")
@pytest.mark.parametrize(
    "chain",
    [
        "2 persistent, 0, 3",
        pytest.param("0, 2, 3 persistent", marks=pytest.mark.slow),
        pytest.param("3, 2 persistent, 0", marks=pytest.mark.slow),
    ],
)
def test_workers_may_change_at_every_resume(chain, images, tmp_path):
    """Killed inside an epoch each time; the whole run has one worker."""
    start(run_config("MoCo", images, tmp_path / "whole", num_workers=1))
    kills = [("before", 4), ("after", 7), None]
    for i, (workers_, kill) in enumerate(zip(chain.split(", "), kills, strict=True)):
        loader = {
            "num_workers": int(workers_[0]),
            "persistent_workers": "persistent" in workers_,
        }
        cfg = run_config("MoCo", images, tmp_path / "killed", **loader)
        start(cfg, kill, resume=i > 0)
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

    def two(name: str) -> Config:
        cfg = run_config("CO2", images, tmp_path / name, batch_size=BATCH // 2)
        cfg.randomness.diff_rank_seed = True
        return cfg

    start(two("whole"), ranks=2)
    generators = final(tmp_path / "whole")["state"]["random"]
    assert len(generators) == 2
    assert not torch.equal(generators[0]["torch"], generators[1]["torch"])
    start(two("killed"), ("before", 7), ranks=2)
    shutil.copytree(tmp_path / "killed", tmp_path / "one")
    start(two("killed"), resume=True, ranks=2)
    assert_resumed(tmp_path / "whole", tmp_path / "killed")

    expected = seen(tmp_path / "whole")
    assert len(set(map(tuple, expected.values()))) == STEPS
    for file in tmp_path.glob("one/seen_*.txt"):
        file.unlink()
    printed = start(run_config("CO2", images, tmp_path / "one"), resume=True)
    found = seen(tmp_path / "one")
    assert list(found) == list(range(min(found), STEPS)) and min(found) in (4, 6)
    for i in found:
        assert sorted(found[i]) == sorted(expected[i])
    assert "was written by 2 ranks, now there are 1" in printed
    assert "Every iteration sees the same images as before" in printed

    refused = start(two("one"), resume=True, code=2)  # half of the batch
    assert "images per iteration" in refused and "4 = 1 x 4 -> 2 = 1 x 2" in refused
    assert "Set train_dataloader.batch_size=4" in refused


def test_the_sampler_deals_the_same_batches_to_any_number_of_ranks(monkeypatch):
    """What the resume on other ranks rests on: mmengine's sampler, and none of ours."""
    batches = {}
    for ranks in (1, 2, 4):
        for rank in range(ranks):
            place = "mmengine.dataset.sampler.get_dist_info"
            monkeypatch.setattr(place, lambda r=rank, w=ranks: (r, w))
            sampler = DefaultSampler(range(75), shuffle=True, seed=5)
            for epoch in range(2):
                sampler.set_epoch(epoch)
                order, size = list(sampler), 8 // ranks
                for i in range(75 // 8):
                    key = ranks, epoch, i
                    new = order[i * size : (i + 1) * size]
                    batches.setdefault(key, set()).update(new)
    for (_, epoch, i), found in batches.items():
        assert len(found) == 8 and found == batches[1, epoch, i]
    assert batches[1, 0, 0] != batches[1, 1, 0]


class StopInEvaluation(Hook):
    """Stops as a signal does while kNN runs, between two hooks that end an epoch."""

    priority = "BELOW_NORMAL"

    def after_train_epoch(self, runner):
        raise InterruptedError


def test_an_epoch_that_was_stopped_at_its_end_ends_once(images, tmp_path):
    """One iteration of k-means at the end of an epoch: two would be another state."""

    def run(name: str) -> Config:
        cfg = run_config("InterCLR", images, tmp_path / name, every=STEPS)
        labels = {"num_clusters": 6, "num_iters": 1, "interval": 1}
        cfg.model.pseudo_labels = {"type": "OfflineLabels", **labels}
        cfg.custom_hooks[0]["warmup_epochs"] = 0
        return cfg

    make_runner(run("whole"), Noise()).train()
    runner = make_runner(run("stopped"), Noise(), StopInEvaluation())
    with pytest.raises(InterruptedError):
        runner.train()
    hook = next(x for x in runner.hooks if hasattr(x, "save_now"))
    file = hook.save_now(runner)
    assert (runner.epoch, runner.iter) == (0, LENGTH)
    make_runner(run("stopped"), Noise(), resume=file).train()
    assert_resumed(tmp_path / "whole", tmp_path / "stopped")
