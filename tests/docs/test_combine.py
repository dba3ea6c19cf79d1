"""The examples of docs/combine.md train, with the losses and weights they show."""

import math

import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config
from tests.models.bases import total, views

from .blocks import ROOT, read_page

BLOCKS, _ = read_page(ROOT / "docs" / "combine.md")
FILES = {b.file: b.text for b in BLOCKS if b.language == "python" and b.file}
TEACHER = "work_dirs/mocov2_r18_demo/epoch_30.pth"
# Weight of each loss in the first iteration.
EXPECTED = {
    "byol_co2.py": {"instance": 1, "consistency": 0.3},
    "simsiam_dense.py": {"instance": 1, "dense": 0},
    "moco_region_co2.py": {"instance": 1, "region": 1, "consistency": 0.3},
    "moco_symmetric.py": {"instance": 1},
    "byol_crops.py": {"instance": 1},
    "byol_taught.py": {"instance": 1, "distillation": 0.5},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a reader has: the configs, and a trained MoCo for the teacher."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    init_default_scope("mmssl_ext")
    return tmp_path


def test_every_example_is_known():
    assert FILES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_example_trains(name, folder):
    if name == "byol_taught.py":
        (folder / TEACHER).parent.mkdir(parents=True)
        teacher = MODELS.build(load_config("configs/mocov2/mocov2_r18_demo.py").model)
        teacher.init_weights()
        torch.save({"state_dict": teacher.state_dict()}, folder / TEACHER)
    (folder / name).write_text(FILES[name])
    model = MODELS.build(load_config(name).model)
    model.init_weights()
    model.clock.total, model.clock.epoch_length = 1000, 10
    losses = model.train()(views(4, count=model.num_views), mode="loss")
    weights = EXPECTED[name]
    assert {n[4:] for n in losses if n.startswith("raw_")} == weights.keys()
    for loss, weight in weights.items():
        raw = losses[f"raw_{loss}"]
        torch.testing.assert_close(losses[f"loss_{loss}"].detach(), weight * raw)
    total(losses).backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    if name == "moco_symmetric.py":
        assert int(model.compare.queue.ptr) == 8  # keys of both views


def test_schedules_of_the_page_are_read():
    (text,) = (b.text for b in BLOCKS if b.text.startswith("weights = "))
    shown: dict = {}
    exec(text, shown)
    config = load_config(ROOT / "configs" / "densecl" / "densecl_r18_demo.py").model
    init_default_scope("mmssl_ext")
    own = config | dict(type="MoCo", weights=shown["weights"])
    own.pop("loss_lambda")
    own.terms = [
        dict(type="Consistency", temperature=0.05),
        dict(type="Dense"),
        dict(type="Regions", cells=(1, 2), stride=16),
    ]
    model = MODELS.build(own)
    clock = model.clock
    clock.total, clock.epoch_length = 20000, 100
    found = []
    for iteration in (0, 500, 1000, 10000, 20000):
        clock.set(iteration)
        found.append([model.weights[name](clock) for name in shown["weights"]])
    assert torch.allclose(
        torch.tensor(found),
        torch.tensor(
            [
                [1, 0, 0, 1],
                [1, 0.15, 0, (1 + math.cos(math.pi / 40)) / 2],
                [1, 0.3, 0, (1 + math.cos(math.pi / 20)) / 2],
                [1, 0.3, 0.5, 0.5],
                [1, 0.3, 0.5, 0],
            ]
        ),
        atol=1e-6,
    )
