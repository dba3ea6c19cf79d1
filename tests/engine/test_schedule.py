"""Resumed with other schedules, a run has the rates of one that began with them."""

import copy

import pytest
from mmengine.config import Config

from tests.engine.test_preemption import toy
from tests.harness import SLOW, RunHarness, Watch, assert_same, log_text, stop_at

COSINE = {"type": "CosineAnnealingLR"}
WARM_UP = {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 6}


def cosine(cfg, epochs, **options):
    cfg.param_scheduler = [{**COSINE, "T_max": epochs, "end": epochs, **options}]


def by_iteration(cfg, epochs):
    cosine(cfg, epochs, by_epoch=True, convert_to_iter_based=True)


def phases(cfg, epochs):
    """As detectors are trained: a warm-up by iterations, steps by epochs."""
    steps = {"type": "MultiStepLR", "milestones": [epochs - 1], "gamma": 0.1}
    cfg.param_scheduler = [WARM_UP, {**steps, "by_epoch": True}]


def warm_then_cosine(cfg, epochs):
    rest = {"T_max": epochs - 1, "begin": 1, "end": epochs, "by_epoch": True}
    cfg.param_scheduler = [
        {"type": "LinearLR", "end": 1, "by_epoch": True, "convert_to_iter_based": True},
        {**COSINE, **rest, "convert_to_iter_based": True},
    ]


def momentum_too(cfg, epochs):
    cosine(cfg, epochs)
    cfg.optim_wrapper.optimizer = {"type": "AdamW", "lr": 0.1, "betas": (0.9, 0.99)}
    cycle = {"type": "CosineAnnealingMomentum", "eta_min": 0.5}
    cfg.param_scheduler.append({**cycle, "T_max": epochs, "end": epochs})


def warm_up_of(cfg, epochs):
    cfg.param_scheduler = [{**WARM_UP, "end": 3 * epochs}]


def rate(cfg, epochs):
    cosine(cfg, 4)
    cfg.optim_wrapper.optimizer.update(lr=0.1 * epochs, weight_decay=0.01 * epochs)


def groups(cfg, epochs):
    cosine(cfg, epochs)
    keys = {"bias": {"lr_mult": 0.5, "fix_lr": True}}
    cfg.optim_wrapper.paramwise_cfg = {"custom_keys": keys}
    cfg.custom_hooks = [{"type": "mmssl_ext.FixedRateHook"}]


def none_any_more(cfg, epochs):
    cosine(cfg, epochs)
    if epochs == 4:
        cfg.param_scheduler = None


KINDS = [cosine, by_iteration, phases, warm_then_cosine, momentum_too, warm_up_of]
KINDS += [rate, groups, none_any_more]
# Each is stopped at an epoch's end or within one, and at the other place if asked for.
CASES = [(kind, 8 - 2 * (i % 2)) for i, kind in enumerate(KINDS)]
CASES += [SLOW(kind, 14 - stop) for kind, stop in CASES]


def run_config(work_dir, change, epochs) -> Config:
    cfg = toy(work_dir)
    cfg.train_cfg.max_epochs = epochs
    cfg.default_hooks.checkpoint.max_keep_ckpts = 1
    change(cfg, epochs)
    return cfg


class Rates(Watch):
    """What the optimizer takes for each step."""

    def __init__(self):
        self.seen = []
        super().__init__("LOWEST", before_train_iter=self.look)

    def look(self, runner):
        state = runner.optim_wrapper.optimizer.state_dict()["param_groups"]
        self.seen.append(copy.deepcopy(state))


def train(cfg, *hooks, **how):
    rates = Rates()
    runner = RunHarness.of(cfg).train(rates, *hooks, **how)
    return runner, rates.seen


@pytest.mark.fault("R32")
@pytest.mark.parametrize(("kind", "stop"), CASES)
def test_a_longer_run_has_the_rates_of_its_whole_schedule(tmp_path, kind, stop):
    _, expected = train(run_config(tmp_path / "whole", kind, 4))
    short = run_config(tmp_path / "run", kind, 2)
    if stop == 8:
        train(short)
    else:
        short.default_hooks.checkpoint.update(by_epoch=False, interval=stop)
        train(short, stop_at(stop), stops=True)
    runner, rates = train(run_config(tmp_path / "run", kind, 4), resume=True)
    assert len(rates) == 16 - stop
    assert_same(rates, expected[stop:])
    ends = [RunHarness(tmp_path / name).saved() for name in ("run", "whole")]
    assert_same(*(end.get("param_schedulers", []) for end in ends))
    text = f"the learning rate is {expected[stop][0]['lr']:.4g}; the checkpoint's would"
    assert log_text(runner).count("The schedule is that of the config now") == 1
    if kind is not groups:  # of which a hook sets the first
        assert text in log_text(runner)


def test_a_shorter_run(tmp_path):
    _, expected = train(run_config(tmp_path / "whole", by_iteration, 3))
    train(run_config(tmp_path / "run", by_iteration, 4), stop_at(4), stops=True)
    _, rates = train(run_config(tmp_path / "run", by_iteration, 3), resume=True)
    assert_same(rates, expected[4:])


def test_a_run_by_iterations(tmp_path):
    def run_of(name, steps):
        cfg = toy(tmp_path / name, by_epoch=False)
        cfg.train_cfg.update(max_iters=steps, val_interval=100)
        cfg.param_scheduler = [
            {"type": "PolyLR", "power": 0.9, "by_epoch": False, "end": steps}
        ]
        return cfg

    _, expected = train(run_of("whole", 16))
    train(run_of("run", 8))
    _, rates = train(run_of("run", 16), resume=True)
    assert_same(rates, expected[8:])


def test_an_unchanged_config_leaves_what_a_hook_has_set(tmp_path):
    cfg = run_config(tmp_path / "run", none_any_more, 4)

    def change(runner):
        runner.optim_wrapper.optimizer.param_groups[0]["lr"] = 0.025

    train(cfg, Watch(before_train_iter=change), stop_at(4), stops=True)
    runner, rates = train(run_config(tmp_path / "run", none_any_more, 4), resume=True)
    assert {group[0]["lr"] for group in rates} == {0.025}
    assert "The schedule is" not in log_text(runner)


def test_a_schedule_that_follows_a_metric_is_left_alone(tmp_path):
    def plateau(cfg, epochs):
        cfg.param_scheduler = [
            {"type": "ReduceOnPlateauLR", "monitor": "seen", "patience": epochs}
        ]

    train(run_config(tmp_path / "run", plateau, 2))
    runner, rates = train(run_config(tmp_path / "run", plateau, 4), resume=True)
    assert len(rates) == 8
    assert "The schedules follow a metric" in log_text(runner)
