"""The learning rate of marked parameters stays what it was at first."""

import math

import pytest
from mmengine.hooks import Hook

from tests.harness import config, make_runner
from tests.models.common import model_config

EPOCHS, STEPS = 4, 16  # 16 images in batches of 4
SCHEDULE = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2),
    dict(type="CosineAnnealingLR", T_max=STEPS, by_epoch=False, end=STEPS),
]


class RecordRates(Hook):
    """Keep the learning rate of every parameter at the moment it is applied."""

    def __init__(self):
        self.steps = []

    def before_train(self, runner):
        names = {id(p): name for name, p in runner.model.named_parameters()}

        def record(optimizer, *_):
            rates = {
                names[id(p)]: group["lr"]
                for group in optimizer.param_groups
                for p in group["params"]
            }
            self.steps.append(rates)

        runner.optim_wrapper.optimizer.register_step_pre_hook(record)


def run(images, work_dir, epochs=EPOCHS, mark=True, schedule=True, **options):
    cfg = config(images, work_dir, epochs, fixed_rate={"type": "FixedRateHook"})
    cfg.model = model_config("SimSiam")
    cfg.param_scheduler = SCHEDULE if schedule else None
    if mark:
        cfg.optim_wrapper.paramwise_cfg = dict(
            custom_keys={"predictor": dict(fix_lr=True)}
        )
    cfg.auto_scale_lr = dict(base_batch_size=8)
    record = RecordRates()
    make_runner(cfg, record, **options).train()
    return record.steps


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    return run(images, tmp_path_factory.mktemp("run"))


def predictor(rates):
    return {rate for name, rate in rates.items() if "predictor" in name}


def others(rates):
    return {rate for name, rate in rates.items() if "predictor" not in name}


def test_marked_parameters_keep_their_rate_and_others_decay(uninterrupted):
    assert len(uninterrupted) == STEPS
    for number, rates in enumerate(uninterrupted):
        assert predictor(rates) == {0.05}
        (rate,) = others(rates)
        cosine = 0.025 * (1 + math.cos(math.pi * number / STEPS))
        assert rate == pytest.approx(cosine * (0.1 if number == 0 else 1), rel=1e-6)


def test_a_resumed_run_goes_on_alike(images, uninterrupted, tmp_path):
    first = run(images, tmp_path, epochs=2)
    rest = run(images, tmp_path, resume=True)
    assert len(first) == len(rest) == STEPS // 2
    assert [*first, *rest] == uninterrupted


def test_the_scaled_rate_is_what_stays(images, tmp_path):
    for rates in run(images, tmp_path, epochs=2, auto_scale_lr=True):
        assert predictor(rates) == {0.025}  # 0.05 x 4 / 8


def test_without_a_schedule_nothing_is_left_to_undo(images, tmp_path):
    for rates in run(images, tmp_path, epochs=1, schedule=False):
        assert predictor(rates) == others(rates) == {0.05}


def test_nothing_marked_is_an_error(images, tmp_path):
    with pytest.raises(ValueError, match=r"no parameter is marked by fix_lr=True in"):
        run(images, tmp_path, epochs=1, mark=False)
