"""Accumulated gradients: what follows the optimizer moves once per step of it."""

from __future__ import annotations

import pytest
import torch

from mmssl_ext.engine.checkpoint import load_checkpoint_file
from tests.engine.test_exact_resume import images, run_config
from tests.harness import RunHarness, Watch, assert_same, stop_at
from tests.models.common import QUEUE_ALGORITHMS

__all__ = ["images"]
COUNTS, STEPS = 4, 12  # iterations of an optimizer step, and of the run
SLOW = {"RegionCLM", "RegionCLD", "DetCo", "DenseCL"}
METHODS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in QUEUE_ALGORITHMS
]


def accumulating(method, images, work_dir, every=100):
    cfg = run_config(method, images, work_dir, every)
    cfg.optim_wrapper.accumulative_counts = COUNTS
    return cfg


@pytest.mark.fault("R34")
@pytest.mark.parametrize("method", METHODS)
def test_the_key_encoder_follows_the_steps_of_the_optimizer(images, tmp_path, method):
    """The first time it is an exact copy, then the momentum of the config counts."""
    found, expected = [], []

    def weights(encoder):
        return [p.detach().clone() for p in encoder.backbone.parameters()]

    def before(runner):
        if runner.iter % COUNTS == 0:
            query = weights(runner.model)
            if not expected:
                expected.append(query)
                return
            old = [x.clone() for x in expected[-1]]
            torch._foreach_lerp_(old, query, 1 - runner.model.encoder_k.momentum)
            expected.append(old)

    def after(runner):
        found.append(weights(runner.model.encoder_k))

    hook = Watch(before_train_iter=before, after_train_iter=after)
    cfg = accumulating(method, images, tmp_path / "run")
    runner = RunHarness.of(cfg).train(hook)
    assert runner.model.encoder_k.num_steps == STEPS // COUNTS == len(expected)
    assert not torch.equal(expected[0][0], expected[1][0])
    for iteration, key in enumerate(found):
        assert_same(key, expected[iteration // COUNTS])


def test_on_two_ranks(images, tmp_path):
    cfg = accumulating("MoCo", images, tmp_path / "run", every=STEPS)
    cfg.train_dataloader.batch_size = 2
    harness = RunHarness.of(cfg)
    harness.run(ranks=2)
    assert int(harness.saved()["state_dict"]["encoder_k.steps"]) == STEPS // COUNTS


def test_draws_differ_between_the_iterations_of_a_step(images, tmp_path):
    seeds = []
    hook = Watch(after_train_iter=lambda runner: seeds.append(runner.model.draw_seed))
    cfg = accumulating("MoCo", images, tmp_path / "run")
    RunHarness.of(cfg).train(hook)
    assert len(set(seeds)) == STEPS and seeds[::COUNTS] == [1, 2, 3]


def test_resumed_within_a_step(images, tmp_path):
    """After 6 iterations, two of which wait for the next two."""
    whole = accumulating("MoCo", images, tmp_path / "whole", every=STEPS)
    RunHarness.of(whole).train()
    cfg = accumulating("MoCo", images, tmp_path / "run", every=6)
    RunHarness.of(cfg).train(stop_at(6), stops=True)
    RunHarness.of(cfg).train(resume=True)
    ends = [load_checkpoint_file(x.work_dir + "/iter_12.pth") for x in (cfg, whole)]
    for part in ("state_dict", "optimizer", "param_schedulers"):
        assert_same(*(end[part] for end in ends))
