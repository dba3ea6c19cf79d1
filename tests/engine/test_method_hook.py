"""What a run tells the method that it trains, and what of it can be set."""

import re
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope

from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import build_runner, load_config, prepare, train
from mmssl_ext.run.tool import run_tool
from tests.engine.test_exact_resume import LENGTH, STEPS, images, run_config
from tests.harness import REPO, RunHarness, log_text, stop_at
from tests.models.record import runs
from tests.models.record.since import config_of

__all__ = ["images"]
COSINE = {"kind": "cosine", "start": 0.6, "end": 1}


def test_the_clock_follows_the_run(images, tmp_path):
    cfg = run_config("BYOL", images, tmp_path)
    cfg.optim_wrapper.accumulative_counts = 3
    clock = RunHarness.of(cfg).train(stop_at(5), stops=True).model.clock
    assert (clock.total, clock.epoch_length, clock.accumulation) == (STEPS, LENGTH, 3)
    assert clock.num_steps == int(clock.steps) == 5 and clock.gathered == 2


def test_curves_of_version_0_1_go_on_by_their_new_names(tmp_path):
    photographs = runs.write_images(tmp_path / "images")
    runs.unpack("DenseCL", tmp_path / "run")
    cfg = config_of("DenseCL", photographs, tmp_path / "run")
    cfg.default_hooks.logger = {"type": "LoggerHook", "interval": 1}
    run = RunHarness.of(cfg)
    before = run.saved()["message_hub"]["log_scalars"]
    runner = run.train(resume=True)
    scalars = runner.message_hub.log_scalars
    assert not [name for name in scalars if "nce_" in name]
    for name in ("instance", "dense"):
        then = before[f"train/nce_{name}"]["history"]
        now = scalars[f"train/raw_{name}"].data[0]
        assert len(now) == runs.STEPS and now[: runs.SAVED].tolist() == then.tolist()
    rows = [row for row in run.curve() if "loss" in row]
    assert len(rows) == runs.STEPS - runs.SAVED
    assert all("raw_dense" in row and "nce_dense" not in row for row in rows)


@pytest.fixture(scope="module")
def stopped(images, tmp_path_factory) -> Path:
    """The checkpoint of a BYOL that was stopped after 6 of 12 iterations."""
    cfg = run_config("BYOL", images, tmp_path_factory.mktemp("stopped"))
    cfg.model.momentum = COSINE
    RunHarness.of(cfg).train(stop_at(6), stops=True)
    return Path(cfg.work_dir, "iter_6.pth")


@pytest.mark.parametrize(
    ("epochs", "momentum", "told"),
    [(3, COSINE, False), (6, COSINE, True), (6, COSINE | {"until": 12}, False)],
)
def test_another_length_is_told(stopped, images, tmp_path, epochs, momentum, told):
    """Half of the cosine is done after 6 of 12 iterations, a quarter of 24."""
    cfg = run_config("BYOL", images, tmp_path)
    cfg.model.momentum, cfg.train_cfg.max_epochs = momentum, epochs
    runner = RunHarness.of(cfg).train(stop_at(0), resume=stopped, stops=True)
    found = log_text(runner)
    assert ("momentum goes on until the end of the training" in found) == told
    if told:
        assert "now 24 iterations, 12 when the checkpoint was written" in found
        assert "after 6 of them it is 0.6586; it would be 0.8." in found
    now = runner.model.target.momentum(runner.model.clock)
    assert now == pytest.approx(0.6586 if told else 0.8, abs=1e-4)


def test_a_path_is_resumed_from_as_its_text_is(stopped, images, tmp_path):
    found = []
    for resume in (stopped, str(stopped)):
        cfg = run_config("BYOL", images, tmp_path)
        prepare(cfg, work_dir=tmp_path / "run", resume=resume)
        found.append((cfg.load_from, cfg.resume, cfg.work_dir))
    assert found == [(str(stopped), True, str(tmp_path / "run"))] * 2


DENSE = "configs/densecl/densecl_r18_demo.py"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model.loss_lambda.until": 5}, ("step", 0, 0.5, 5)),
        ({"loss_lambda": 0.3, "start_iters": 7}, ("step", 0, 0.3, 7)),
        ({"model.loss_lambda": 0.3}, ("constant", 0.3, 0.3, None)),
    ],
)
def test_a_schedule_on_the_command_line(options, expected):
    cfg = load_config(REPO / DENSE, options)
    init_default_scope("mmssl_ext")
    weights = MODELS.build(cfg.model).weights
    share = weights["dense"]
    assert (share.kind, share.start, share.end, share.until) == expected
    assert weights["instance"].end == pytest.approx(1 - share.end)


def test_part_of_a_schedule_where_there_is_a_number():
    options = {"model.loss_lambda": 0.3, "model.loss_lambda.until": 5}
    with pytest.raises(ConfigError, match="--cfg-options cannot be applied to"):
        load_config(REPO / DENSE, options)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"model.loss_lambda.until": -5}, "loss_lambda.until=-5 must be 0 or more"),
        ({"model.loss_lambda.unti": 5}, "loss_lambda has no option 'unti'"),
        ({"model.loss_lambda": "0.3x"}, "loss_lambda='0.3x' must be a number"),
    ],
)
def test_a_schedule_that_is_none_is_one_sentence(
    images, tmp_path, capsys, schedule, sentence
):
    options = {"train_dataloader.dataset.root": str(images), **schedule}
    main = run_tool(lambda: train(REPO / DENSE, options, work_dir=str(tmp_path)))
    assert main() == 2
    errors = capsys.readouterr().err
    assert sentence in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("name", "hook", "sentence"),
    [
        (
            "interclr/interclr_r18_demo.py",
            {"type": "PseudoLabelHook", "warmup_epochs": 3, "pipeline": []},
            "PseudoLabelHook has no pipeline, warmup_epochs any more",
        ),
        (
            "densecl/densecl_r18_demo.py",
            {"type": "DenseCLHook", "start_iters": 30},
            'set model.loss_lambda=dict(kind="step", start=0, end=0.5, until=30)',
        ),
    ],
)
def test_what_hooks_did_in_version_0_1_is_refused(tmp_path, name, hook, sentence):
    cfg = load_config(REPO / "configs" / name, {"custom_hooks": [hook]})
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        build_runner(prepare(cfg, work_dir=str(tmp_path)))
