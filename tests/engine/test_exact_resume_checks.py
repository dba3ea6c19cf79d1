"""What a run may not change between a checkpoint and its resume, and what it may."""

from __future__ import annotations

import io
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from mmssl_ext.engine.checkpoint.loops import random_state, set_random_state
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.checkpoint.resume import (
    batch_changes,
    differences,
    on_other_ranks,
    shown,
)
from mmssl_ext.engine.checkpoint.write import wait_for_checkpoints
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.registry import HOOKS
from tests.engine.test_exact_resume import images, run_config
from tests.harness import RunHarness, Stopped, log_text, make_runner, stop_at
from tests.models.common import model_config

__all__ = ["images"]
CHANGED = "The config is not the one that the checkpoint was written with"


@pytest.fixture(scope="module")
def saved(images, tmp_path_factory) -> Path:
    """A checkpoint after 2 of 4 iterations."""
    cfg = run_config("MoCo", images, tmp_path_factory.mktemp("saved"))
    RunHarness.of(cfg).train(stop_at(2), stops=True)
    wait_for_checkpoints()
    return Path(cfg.work_dir, "iter_2.pth")


def resume(file: Path, images: Path, work_dir: Path, change=None):
    """A runner that resumes with a changed config, up to the first step."""
    cfg = run_config("MoCo", images, work_dir)
    if change is not None:
        change(cfg)
    return make_runner(cfg, stop_at(0), resume=str(file))


def go_on(runner):
    with pytest.raises(Stopped):
        runner.train()
    return log_text(runner)


def update(place, **changes):
    """Change options of a place of the config."""

    def change(cfg):
        node = cfg
        for part in place.split("."):
            node = node[int(part) if part.isdigit() else part]
        node.update(changes)

    return change


def method(name):
    def change(cfg):
        cfg.model = model_config(name, bn_splits=2, queue_len=26)

    return change


def three_stages(cfg):
    stages = {"strides": (1, 2, 2), "dilations": (1, 1, 1), "out_indices": (2,)}
    cfg.model.backbone.update(num_stages=3, **stages)
    cfg.model.neck.in_channels = 32


def adam(cfg):
    cfg.optim_wrapper["optimizer"] = {"type": "Adam"}


HALF_OF_NECK = {"custom_keys": {"neck": {"lr_mult": 0.5}}}
REFUSED = {  # what is changed, and parts of what is said
    "method": (  # the tensors of CO2 are those of MoCo
        method("CO2"),
        ["model.type: MoCo -> CO2", "model.consistency.weight: nothing -> 0.3"],
    ),
    "other tensors": (
        method("DenseCL"),
        ["model.type: MoCo -> DenseCL", "10 missing in the file: neck.mlp2"],
    ),
    "queue length": (
        update("model", queue_len=20),
        [
            "model.queue_len: 26 -> 20",
            "1 of another shape: compare.queue.keys ((26, 16) in the file, (20, 16) "
            "here)",
            "--cfg-options load_from=FILE in place of --resume.",
        ],
    ),
    "feature size": (
        update("model.neck", out_channels=8),
        ["neck.out_channels: 16 -> 8", "keys ((26, 16) in the file, (26, 8) here)"],
    ),
    "fewer stages": (
        three_stages,
        ["model.backbone.num_stages: nothing -> 3", "unexpected in the file: backbone"],
    ),
    "images": (
        update("train_dataloader.dataset", max_images=17),
        ["train_dataloader.dataset, images: 18 -> 17", "dataset.max_images: nothing"],
    ),
    "batch": (
        update("train_dataloader", batch_size=3),
        ["4 = 1 x 4 -> 3 = 1 x 3", "Set train_dataloader.batch_size=4"],
    ),
    "accumulation": (
        update("optim_wrapper", accumulative_counts=2),
        ["optim_wrapper.accumulative_counts: 1 -> 2"],
    ),
    "epoch": (
        update("train_dataloader", drop_last=False),
        ["iterations per epoch: 4 -> 5", "drop_last: True -> False"],
    ),
    "optimizer": (adam, ["optim_wrapper.optimizer.type: SGD -> Adam"]),
    "groups": (
        update("optim_wrapper", paramwise_cfg=HALF_OF_NECK),
        [
            "groups: 1 with 128 parameters -> 64 with 64 parameters",
            "optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mult: nothing -> 0.5",
        ],
    ),
}


@pytest.mark.fault("R24")
@pytest.mark.parametrize("case", REFUSED)
def test_changes_that_are_refused(case, saved, images, tmp_path):
    change, texts = REFUSED[case]
    runner = resume(saved, images, tmp_path, change)
    with pytest.raises(CheckpointFileError) as caught:
        runner.train()
    message = str(caught.value)
    for text in [*texts, "checkpoint -> now", "load_from", str(saved)]:
        assert text in message
    assert len(message.splitlines()) <= 16
    now = runner.model.state_dict()
    assert runner.iter == 0
    # Nothing was loaded; init_weights has run meanwhile.
    key = load_checkpoint_file(saved)["state_dict"]["target.steps"]
    assert int(key) == 2 and int(now["target.steps"]) == 0


GOES_ON = {
    "lr": (
        update("optim_wrapper.optimizer", lr=0.5),
        "optim_wrapper.optimizer.lr: 0.05 -> 0.5",
    ),
    "schedule": (
        update("param_scheduler.1", T_max=9),
        "param_scheduler.1.T_max: 3 -> 9",
    ),
    "length": (update("train_cfg", max_epochs=4), "train_cfg.max_epochs: 3 -> 4"),
    "views": (
        update("train_dataloader.dataset.pipeline.1.views.0.2", prob=0.1),
        "train_dataloader.dataset.pipeline.1.views.0.2.prob: 0.5 -> 0.1",
    ),
    "hook": (
        lambda cfg: cfg.custom_hooks.append({"type": "ToyDrawHook", "strength": 2}),
        "custom_hooks.ToyDrawHook.strength: nothing -> 2",
    ),
}


class ToyDrawHook(Hook):
    def __init__(self, strength):
        self.strength = strength


@pytest.mark.fault("R24")
@pytest.mark.parametrize("case", GOES_ON)
def test_changes_that_are_warned_of(case, saved, images, tmp_path):
    HOOKS.register_module(module=ToyDrawHook, force=True)
    change, text = GOES_ON[case]
    runner = resume(saved, images, tmp_path, change)
    log = go_on(runner)
    assert CHANGED in log and text in log
    of_schedule = case in ("lr", "schedule", "length")
    assert ("The schedule is that of the config" in log) == of_schedule
    if case == "lr":
        kept = load_checkpoint_file(saved)["optimizer"]["param_groups"][0]["lr"]
        assert runner.optim_wrapper.get_lr()["lr"] == [pytest.approx(10 * kept)]
    if case == "schedule":
        assert runner.param_schedulers[1].T_max == 9


def test_what_changes_no_step_is_not_mentioned(saved, images, tmp_path):
    def change(cfg):
        cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
        cfg.train_dataloader.dataset.root = str(moved)
        cfg.default_hooks.logger.interval = 7
        cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=5)
        cfg.default_hooks.collapse.interval = 1
        cfg.log_processor.window_size = 9
        cfg.log_level = "DEBUG"
        cfg.train_cfg.val_interval = 3

    moved = tmp_path / "moved"
    shutil.copytree(images, moved)
    runner = resume(saved, images, tmp_path / "run", change)
    log = go_on(runner)
    runner.train_dataloader._iterator = None  # ends the workers
    assert f"Resuming from {saved}" in log
    log = re.sub(".*Build settings.*", "", log)  # torch names its compiler's threads
    for needless in (
        *(CHANGED, "threads", "not HistoryBuffer", "just skip resuming"),
        "dataset metainfo",
    ):
        assert needless not in log


def test_another_number_of_threads_is_told(saved, images, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        log = go_on(resume(saved, images, tmp_path))
    finally:
        torch.set_num_threads(before)
    assert f"on {before} CPU threads, this run has {before + 1}. " in log
    assert f"OMP_NUM_THREADS={before} makes it exact" in log


def test_checkpoints_without_a_state_go_on_after_one_warning(saved, images, tmp_path):
    content = load_checkpoint_file(saved)
    del content["training_state"]
    torch.save(content, tmp_path / "old.pth")
    log = go_on(resume(tmp_path / "old.pth", images, tmp_path / "run"))
    assert log.count("has no training_state") == 1 and CHANGED not in log
    shorter = update("model", queue_len=20)
    runner = resume(tmp_path / "old.pth", images, tmp_path / "other", shorter)
    with pytest.raises(CheckpointFileError, match=r"queue.keys \(\(26, 16\) in the"):
        runner.train()


def test_weights_alone_may_go_anywhere(saved, images, tmp_path):
    """``load_from`` is not asked, and takes over nothing but weights."""
    cfg = run_config("CO2", images, tmp_path)
    cfg.load_from = str(saved)
    runner = make_runner(cfg, stop_at(0))
    log = go_on(runner)
    assert runner.iter == 0 and CHANGED not in log
    assert int(runner.model.state_dict()["target.steps"]) == 2


def test_what_is_said_of_other_ranks():
    """The training itself: test_exact_resume.py."""

    def ranks(world_size, batch_size):
        return dict(accumulative_counts=1, world_size=world_size, batch_size=batch_size)

    assert batch_changes(ranks(2, 8), ranks(4, 4)) == ([], "")
    lines, remedy = batch_changes(ranks(3, 3), ranks(2, 3))
    assert lines[0].endswith("9 = 3 x 3 -> 6 = 2 x 3")
    assert remedy.startswith("9 images per iteration cannot be shared evenly by 2")
    assert batch_changes(ranks(2, None), ranks(4, 4)) == ([], "")
    data = range(8)
    for loader, same in (
        (DataLoader(data, 4, sampler=DefaultSampler(data)), True),
        (DataLoader(data, 4, sampler=InfiniteSampler(data)), True),
        (DataLoader(data, 4, shuffle=True), False),
        (DataLoader(data, batch_sampler=[[0, 1], [2]]), False),
    ):
        text = on_other_ranks(ranks(2, 2), ranks(1, 4), loader)
        assert ("sees the same images as before" in text) == same
        assert ("Which images an iteration sees changes" in text) != same


def test_long_lists_are_cut():
    before = {"model": {f"a{i}": 0 for i in range(30)}, "train_cfg": None}
    after = {"model": {f"a{i}": i for i in range(30)}, "work_dir": "x"}
    lines = differences(before, after)
    assert len(lines) == 29
    assert shown(lines).endswith("\n  model.a18: 0 -> 18\n  ... and 19 more")
    assert differences({"model": None}, {"model": {"a": [1, {"b": 2}]}}) == [
        "model: None -> nothing",
        "model.a.0: nothing -> 1",
        "model.a.1.b: nothing -> 2",
    ]


def test_generators_go_on_from_their_state():
    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.standard_normal(3).tolist(),  # an odd number: one is kept back
            [random.gauss(0, 1), random.random()],  # so is one of these
        )

    draw()
    state, file = random_state(), io.BytesIO()
    expected = [draw() for _ in range(2)]
    assert expected[0] != expected[1]
    torch.save(state, file)
    file.seek(0)
    for copy in (state, torch.load(file, weights_only=True)):
        set_random_state(copy)
        assert [draw() for _ in range(2)] == expected
