"""Every backbone by every method: gradients, targets, optimizer, exact resume."""

from __future__ import annotations

import itertools

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

from mmssl_ext.backbones import backbone_named
from mmssl_ext.errors import UserValueError
from mmssl_ext.models.layers import SplitBatchNorm
from mmssl_ext.registry import MODELS
from tests.harness import RunHarness, assert_same, log_text, stop_at
from tests.models.common import total

from .cases import BACKBONES, METHODS, refused, shipped, short_run, some


def build(cfg, seed=0):
    """The model of a config in training mode, behind every warm-up."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    model._dump_init_info = lambda: None  # a line for every tensor
    model.init_weights()
    model.clock.total = model.clock.epoch_length = 1000
    model.clock.set(500)
    return model.train()


def views(batch=4, size=64):
    shape = (batch, 3, size, size)
    return [torch.randint(256, shape, dtype=torch.uint8) for _ in range(2)]


@pytest.mark.parametrize(
    ("name", "method"), some(list(itertools.product(BACKBONES.values(), METHODS)), 4)
)
@pytest.mark.filterwarnings("error:bn_splits")
def test_learns(name, method):
    """A gradient for every parameter, targets without chance, no leak of BatchNorm."""
    cfg = shipped(method, name)
    model = build(cfg)
    batch = views()
    model.train()
    if refused(name, method):
        with pytest.raises(UserValueError, match=r"set backbone\.out_type='featmap'"):
            model.eval().check_inputs([x.float() for x in batch])
        return
    losses = model(batch, mode="loss", index=torch.arange(4))
    assert torch.isfinite(total(losses))
    total(losses).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    still = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert not still

    target = model.target
    seen = torch.randn(4, 3, 64, 64)
    first, second = (target.backbone(seen)[-1] for _ in range(2))
    assert target.training and torch.equal(first, second)

    with torch.no_grad():
        found = model(seen, mode="embed")  # what kNN and reports take
    assert found["backbone"].shape == (4, backbone_named(name).channels[-1])

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    leaks = bool(norms) and method != "BYOL"
    assert model.shuffles == leaks
    assert any(isinstance(m, SplitBatchNorm) for m in norms) == leaks


@pytest.mark.parametrize("name", ["swin-tiny", "vit-tiny", "convnext-atto"])
def test_adamw_lets_only_weights_decay(name):
    cfg = shipped("MoCo", name)
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer).__name__ == "AdamW"
    names = {id(p): n for n, p in model.named_parameters()}
    decays = {
        names[id(p)]: group["weight_decay"]
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
        if p.requires_grad
    }
    assert set(decays.values()) == {0, 0.1 if name == "vit-tiny" else 0.05}
    free = ("bias", "gamma", "pos_embed", "cls_token", "bias_table")
    for n, decay in decays.items():
        flat = dict(model.named_parameters())[n].dim() == 1
        assert (decay == 0) == (flat or n.endswith(free)), n
    assert [s.type for s in cfg.param_scheduler] == ["LinearLR", "CosineAnnealingLR"]


def test_a_resnet_is_trained_as_before():
    cfg = shipped("MoCo", "resnet18-w32")
    assert cfg.optim_wrapper.optimizer.type == "SGD"
    assert [s.type for s in cfg.param_scheduler] == ["CosineAnnealingLR"]


def test_positions_and_patches_of_a_vit_are_fixed(images, tmp_path):
    run = RunHarness.of(short_run("MoCo", "vit-tiny", images, tmp_path))
    model = run.train(stop_at(2), stops=True).model
    frozen = {n for n, p in model.backbone.named_parameters() if not p.requires_grad}
    patches = {f"patch_embed.projection.{n}" for n in ("weight", "bias")}
    assert frozen == {"pos_embed", *patches}
    assert model.backbone.pos_embed[0, 1:].std() > 0.1  # sines and cosines


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n != "timm:test_convnext"))
        for n in BACKBONES.values()
    ],
)
def test_resume_is_bitwise(name, images, tmp_path):
    """Drop path draws from a generator that goes on where it was."""
    whole = RunHarness.of(short_run("CO2", name, images, tmp_path / "whole"))
    text = log_text(whole.train())
    assert ("BatchNorm" in text) == ("bn_splits" in text)
    halves = RunHarness.of(short_run("CO2", name, images, tmp_path / "halves"))
    halves.train(stop_at(7), stops=True)
    halves.train(resume=True)
    assert_same(halves.end(12), whole.end(12))
