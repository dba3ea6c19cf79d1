"""DINO's and SCFS's recipes are those of their sheets."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmssl_ext.models.schedules import Clock
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config

from .test_configs import ROOT, drawn, iteration_rates, load

R50, VIT, SCFS = (
    *("dino/dino_r50_imagenet.py", "dino/dino_vits_imagenet.py"),
    "scfs/scfs_r50_imagenet.py",
)


def at(schedule, epoch, epochs):
    """A value of a schedule."""
    clock = Clock()
    clock.total, clock.epoch_length = epochs, 1
    clock.set(epoch)
    return schedule(clock)


@pytest.mark.parametrize(
    ("name", "batch", "lr", "epochs", "end"),
    [(R50, 64, 0.06, 100, 1e-6), (SCFS, 32, 0.1, 200, 0.0048)],
)
def test_sgd_of_the_resnet(name, batch, lr, epochs, end):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size == batch
    assert cfg.auto_scale_lr.base_batch_size == 8 * batch
    assert cfg.train_cfg.max_epochs == epochs
    assert load_config(ROOT / name).sync_bn == "torch"
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr) == ("SGD", lr)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    rates = iteration_rates(cfg.param_scheduler, 2 * epochs)
    assert rates[0] < 0.02 and max(rates) == pytest.approx(1, abs=1e-3)
    assert rates.index(max(rates)) in (19, 20)  # after 10 epochs
    assert rates[-1] * lr == pytest.approx(end, abs=2e-4 * lr)
    assert [hook for hook in cfg.custom_hooks if hook.type == "ClipEachHook"] == [
        dict(type="ClipEachHook", max_norm=3.0)
    ]
    assert cfg.default_hooks.knn.encoder == "key"


def test_what_does_not_decay():
    cfg = load(R50, num_prototypes=64, depth=18)
    model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decays = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {decays[id(p)] for p in learned if p.ndim == 1} == {0}
    assert {decays[id(p)] for p in learned if p.ndim > 1} == {1e-4}


def test_head_teacher_and_crops_of_dino():
    cfg = load(R50)
    head = MODELS.build(cfg.model.neck)
    linear = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [
        *((2048, 2048), (2048, 2048), (2048, 256))
    ]
    assert not any("Norm" in type(m).__name__ for m in head.modules())
    prototypes = 65_536
    numbers = sum(p.numel() for p in head.parameters()) + 256 * prototypes
    assert numbers == 25_694_464
    model = MODELS.build(load(R50, num_prototypes=64, depth=18).model)
    assert cfg.model.num_prototypes == prototypes and cfg.model.frozen_epochs == 1
    momentum = model.target.momentum
    found = [at(momentum, epoch, 100) for epoch in (0, 50, 100)]
    assert found == pytest.approx([0.996, 0.998, 1])
    assert len(model.pairs) == 18
    assert all(at(model.compare.sharpness, e, 100) == 0.04 for e in (0, 99))
    large, other, *small = drawn(R50)
    assert len(small) == 8 and small.count(small[0]) == 8
    crops = [view["RandomResizedCrop"] for view in (large, other, small[0])]
    assert [(c["size"], tuple(c["scale"])) for c in crops] == [
        *((224, (0.14, 1.0)), (224, (0.14, 1.0)), (96, (0.05, 0.14)))
    ]
    assert {c["interpolation"] for c in crops} == {"bicubic"}
    blurs = [view["GaussianBlur"]["prob"] for view in (large, other, small[0])]
    assert blurs == [1.0, 0.1, 0.5]
    assert [view.get("RandomSolarize", {}).get("prob") for view in (large, other)] == [
        *(None, 0.2)
    ]
    jitter = large["ColorJitter"]
    strengths = [jitter[x] for x in ("brightness", "contrast", "saturation", "hue")]
    assert [*strengths, jitter["prob"]] == [0.4, 0.4, 0.2, 0.1, 0.8]


def test_the_vit_differs_by_optimizer_and_scales():
    cfg = load(VIT)
    optimizer = cfg.optim_wrapper.optimizer
    found = (optimizer.type, optimizer.lr, optimizer.weight_decay)
    assert found == ("AdamW", 0.001, 0.04)
    (decay,) = [s for s in cfg.param_scheduler if s.get("param_name")]
    assert decay.eta_min_ratio * optimizer.weight_decay == pytest.approx(0.4)
    assert cfg.model.backbone.drop_path_rate == 0.1
    large, _, small = drawn(VIT)[:3]
    scales = [tuple(v["RandomResizedCrop"]["scale"]) for v in (large, small)]
    assert scales == [(0.4, 1.0), (0.05, 0.4)]


def test_temperature_and_stages_of_scfs():
    model = MODELS.build(load(SCFS, num_prototypes=64).model)
    sharp = model.compare.sharpness
    found = [at(sharp, epoch, 200) for epoch in (0, 25, 50, 199)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert model.backbone.out_indices == (1, 2, 3)
    assert len(model.pairs) == 18 and math.isclose(
        at(model.target.momentum, 0, 200), 0.996
    )
    crops = [view["RandomResizedCrop"] for view in drawn(SCFS)]
    assert [tuple(c["scale"]) for c in crops] == [(0.25, 1.0)] * 2 + [(0.05, 0.25)] * 8
