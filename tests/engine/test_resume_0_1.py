"""Checkpoints that version 0.1 wrote go on, start new runs and hand their weights over.

What is called otherwise since then stands in tests/models/record/since.py.
"""

from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.models import ResNet

from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.registry import MODELS
from mmssl_ext.transfer.handover import PretrainedBackbone
from tests.harness import RunHarness, make_runner, stop_at
from tests.models.common import ALGORITHMS, QUEUE_ALGORITHMS
from tests.models.record import runs
from tests.models.record.since import AGREE, config_of, old_name
from tests.models.record.steps import close

every_algorithm = pytest.mark.parametrize(
    "name", [name for name in runs.RUNS if name in ALGORITHMS]
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return runs.write_images(tmp_path_factory.mktemp("record") / "images")


def state_in(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]


def assert_same_figures(now: dict, then: dict) -> None:
    """In single precision rounding grows to about 4e-7, in gradients to 5e-5."""
    assert sorted(now["rates"]) == pytest.approx(sorted(then["rates"]), rel=1e-12)
    for kind, tolerance in (("state", 1e-6), ("momenta", 2e-4)):
        assert now[kind].keys() == then[kind].keys()
        for part, figures in then[kind].items():
            assert close(now[kind][part], figures, tolerance), (kind, part)


def assert_taken(model: torch.nn.Module, file: Path, but: tuple[str, ...] = ()) -> None:
    """Every tensor of the file is in the model, and no other."""
    now = {old_name(key): value for key, value in model.state_dict().items()}
    now.pop("", None)
    then = state_in(file)
    assert now.keys() == then.keys()
    for key, value in then.items():
        assert key.startswith(but) or torch.equal(now[key], value), key


@pytest.mark.parametrize("name", runs.RUNS)
def test_a_run_goes_on_from_it_as_it_did(name, images, tmp_path):
    runs.unpack(name, tmp_path)
    record = runs.Record(old_name)
    RunHarness.of(config_of(name, images, tmp_path)).train(record, resume=True)
    now, then = record.found, runs.recorded(name)
    assert list(now) == list(then) == list(range(runs.SAVED + 1, runs.STEPS + 1))
    for i in range(runs.SAVED + 1, AGREE.get(name, runs.STEPS) + 1):
        assert_same_figures(now[i], then[i])


@every_algorithm
def test_its_backbone_arrives_whole(name, tmp_path):
    file = runs.unpack(name, tmp_path)
    state = state_in(file)
    for encoder, prefix in (("query", "backbone."), ("key", "encoder_k.backbone.")):
        backbone = ResNet(**{k: v for k, v in runs.BACKBONE.items() if k != "type"})
        load = PretrainedBackbone(str(file), encoder=encoder)
        if encoder == "key" and name not in QUEUE_ALGORITHMS:
            with pytest.raises(CheckpointFileError, match="key encoder"):
                load(backbone)
            continue
        load(backbone)
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, state[prefix + key]), key
        assert f"{len(backbone.state_dict())} of" in backbone.handover.report.summary()


@every_algorithm
def test_a_model_takes_all_of_it(name, images, tmp_path):
    file = runs.unpack(name, tmp_path / "old")
    init_default_scope("mmssl_ext")
    model = MODELS.build(config_of(name, images, tmp_path / "run").model)
    load_strictly(model, file)
    assert_taken(model, file)


@every_algorithm
def test_a_new_run_starts_from_its_weights(name, images, tmp_path):
    file = runs.unpack(name, tmp_path / "old")
    cfg = config_of(name, images, tmp_path / "run")
    cfg.load_from = str(file)
    run = RunHarness(tmp_path / "run", lambda *hooks, **_: make_runner(cfg, *hooks))
    runner = run.train(stop_at(0), stops=True)
    assert (runner.epoch, runner.iter) == (0, 0)
    # Whose place in the dataset a row has may be another there: they are made anew.
    assert_taken(runner.model, file, ("bank.", "pseudo_labels."))
