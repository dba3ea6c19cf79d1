"""Accumulated gradients: what follows the optimizer moves once per step of it."""

from __future__ import annotations

import pytest
import torch

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from tests.engine.test_exact_resume import Kill, images, run_config
from tests.harness import RunHarness, Watch, assert_same, stop_at
from tests.models.common import MOMENTUM_ALGORITHMS

__all__ = ["images"]
COUNTS, STEPS = 4, 12  # iterations of an optimizer step, and of the run


def methods(names, fast):
    return [x if x in fast else pytest.param(x, marks=pytest.mark.slow) for x in names]


def accumulating(method, images, work_dir, every=100):
    cfg = run_config(method, images, work_dir, every)
    cfg.optim_wrapper.accumulative_counts = COUNTS
    return cfg


@pytest.mark.fault("R34")
@pytest.mark.parametrize("method", methods(MOMENTUM_ALGORITHMS, ("MoCo", "BYOL")))
def test_the_target_follows_the_steps_of_the_optimizer(images, tmp_path, method):
    """The first time it is an exact copy, then the momentum of the config counts."""
    found, expected, seeds = [], [], []

    def weights(encoder):
        return [p.detach().clone() for p in encoder.backbone.parameters()]

    def before(runner):
        clock = runner.model.clock
        seeds.append(clock.draw_seed)
        if runner.iter % COUNTS == 0:
            query = weights(runner.model)
            if not expected:
                expected.append(query)
                return
            old = [x.clone() for x in expected[-1]]
            momentum = runner.model.target.momentum(clock)
            torch._foreach_lerp_(old, query, 1 - momentum)
            expected.append(old)

    def after(runner):
        found.append(weights(runner.model.target))

    hook = Watch(before_train_iter=before, after_train_iter=after)
    cfg = accumulating(method, images, tmp_path / "run")
    if method == "BYOL":  # a schedule, which is read as often
        cfg.model.momentum = {"kind": "cosine", "start": 0.6, "end": 1}
    runner = RunHarness.of(cfg).train(hook)
    assert runner.model.target.num_steps == STEPS // COUNTS == len(expected)
    assert not torch.equal(expected[0][0], expected[1][0])
    for iteration, key in enumerate(found):
        assert_same(key, expected[iteration // COUNTS])
    # random numbers differ between the iterations of a step
    assert len(set(seeds)) == STEPS and seeds[::COUNTS] == [1, 2, 3]


def one_by_one(method, images, work_dir, counts):
    """A run of two steps of 8 images each, in ``counts`` parts, in float64.

    Statistics of BatchNorm do not depend on the parts: they are those of the start.
    """
    cfg = run_config(method, images, work_dir, batch_size=8 // counts)
    cfg.model.pop("terms", None)  # Un-Mix draws for each part
    cfg.train_cfg = {"by_epoch": True, "max_epochs": 1}
    cfg.train_dataloader.dataset.max_images = 16
    cfg.optim_wrapper.accumulative_counts = counts
    cfg.param_scheduler = []
    cfg.optim_wrapper.optimizer.momentum = 0

    def widen(runner):
        model = runner.model.double()
        for encoder in (model, model.target):
            if backbone := getattr(encoder, "backbone", None):
                backbone.register_forward_pre_hook(lambda _, x: (x[0].double(),))

    def fix(runner):
        for module in runner.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()

    return RunHarness.of(cfg, Watch(before_train=widen, before_train_iter=fix))


@pytest.mark.parametrize("method", ["MoCo", "BYOL"])
def test_parts_of_a_batch_train_like_the_whole(images, tmp_path, method):
    """Weights, target and queue: none of its parts sees keys of another."""
    states = []
    for counts in (1, COUNTS):
        runner = one_by_one(method, images, tmp_path / str(counts), counts).train()
        assert runner.iter == 2 * counts
        states.append(dict(runner.model.state_dict()))
    whole, parts = (
        {k: v for k, v in x.items() if k not in ("clock.steps", "_metadata")}
        for x in states
    )
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-12)
    if method == "MoCo":
        assert int(whole["compare.queue.ptr"]) == 16


def ends(*configs):
    found = [RunHarness.of(cfg).saved() for cfg in configs]
    parts = ("state_dict", "optimizer", "param_schedulers")
    return [{part: end[part] for part in parts} for end in found]


@pytest.mark.parametrize(
    "method", methods(["MoCo", "InterCLR", "BYOL", "SimSiam"], ("InterCLR", "BYOL"))
)
def test_resumed_within_a_step(images, tmp_path, method):
    """After 6 iterations, two of which wait for the next two."""
    whole = accumulating(method, images, tmp_path / "whole", every=STEPS)
    RunHarness.of(whole).train()
    cfg = accumulating(method, images, tmp_path / "run", every=6)
    RunHarness.of(cfg).train(stop_at(6), stops=True)
    waiting = load_checkpoint_file(cfg.work_dir + "/iter_6.pth")["training_state"]
    assert waiting["gradients"] and len(waiting["memory"]) == 2
    for iteration in waiting["memory"]:
        if method in ("MoCo", "InterCLR"):
            assert iteration["compare"]["keys"].shape == (4, 16)
        else:
            assert iteration == {}
    RunHarness.of(cfg).train(resume=True)
    assert_same(*ends(cfg, whole))


def test_resumed_within_a_step_on_two_ranks(images, tmp_path):
    """The keys that wait are those of both; each gets its own back.

    Gradients that wait come back as their mean, which is rounded otherwise.
    """
    configs = []
    for name, every in (("whole", 8), ("run", 6)):
        cfg = accumulating("MoCo", images, tmp_path / name, every)
        cfg.train_dataloader.batch_size = 2
        cfg.train_cfg.max_epochs = 2  # one step more
        configs.append(cfg)
    whole, cfg = configs
    RunHarness.of(whole).run(ranks=2)
    RunHarness.of(cfg).run(Kill("after", 6), ranks=2, code=None)
    memory = load_checkpoint_file(cfg.work_dir + "/iter_6.pth")["training_state"]
    assert [x["compare"]["keys"].shape for x in memory["memory"]] == [(4, 16)] * 2
    RunHarness.of(cfg).run(resume=True, ranks=2)
    now, then = (end["state_dict"] for end in ends(cfg, whole))
    assert int(then["target.steps"]) == 8 // COUNTS
    for name, value in then.items():
        torch.testing.assert_close(now[name], value, rtol=1e-4, atol=1e-5, msg=name)
