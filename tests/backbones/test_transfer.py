"""Weights of every backbone arrive completely, and compute what they did."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope

from mmssl_ext.backbones import network
from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import build_runner, load_config, prepare
from mmssl_ext.transfer.handover import handovers
from tests.harness import REPO
from tests.transfer.conftest import demo
from tests.transfer.test_configs import options

from .cases import BACKBONES, shipped, some

__all__ = ["demo"]
TRANSFERS = {
    "Faster R-CNN": "detection/faster_rcnn_r50_fpn_voc0712.py",
    "Mask R-CNN": "detection/mask_rcnn_r50_fpn_coco_1x.py",
    "FCN": "segmentation/fcn_r50_voc12aug.py",
    "UPerNet": "segmentation/upernet_r50_cityscapes_40k.py",
}
FRESH = {"ConvNeXt", "SwinTransformer"}  # norms behind the first three stages


def config_of(transfer: str, name: str, checkpoint: Path | None, **more):
    """A transfer config with the backbone, and small heads."""
    small = {"fpn_channels": 64, "fc_channels": 16} if "CNN" in transfer else {}
    small |= {"head_channels": 16} if transfer == "UPerNet" else {}
    weights = checkpoint and str(checkpoint)
    chosen = {"backbone": name, "checkpoint": weights, **small, **more}
    # The rate that does nothing is refused.
    adamw = network(name, "transfer")["adamw"]
    chosen.pop("lr" if adamw else "adamw_lr", None)
    return load_config(REPO / "configs/transfer" / TRANSFERS[transfer], chosen)


def built(cfg):
    """The model with its weights, as the Runner makes it, in eval mode."""
    init_default_scope(cfg.default_scope)
    model = ROOT_MODELS.build(cfg.model)
    model._dump_init_info = lambda: None  # a line for every tensor
    model.init_weights()
    return model.eval()


def original(name: str, checkpoint: Path):
    """The backbone of the pretraining, loaded without this package's help."""
    init_default_scope("mmssl_ext")
    model = MODELS.build(shipped("MoCo", name).model)
    state = load_checkpoint_file(checkpoint)["state_dict"]
    model.load_state_dict({**model.state_dict(), **state})
    model.eval()
    return model.backbone


@pytest.mark.parametrize(
    ("name", "transfer"),
    some(list(itertools.product(BACKBONES.values(), TRANSFERS)), 4, heavy=False),
)
def test_features_are_those_of_the_pretraining(name, transfer, pretrained):
    checkpoint = pretrained(name)
    model = built(config_of(transfer, name, checkpoint))
    before = original(name, checkpoint)
    ((place, handover),) = handovers(model).items()
    taken = model.get_submodule(place)
    # Of the source every tensor, in the model none but the norms without.
    assert not handover.report.missing and not handover.report.unexpected
    state = before.state_dict()
    assert set(handover.report.matched) == set(state)
    fresh = {n.split(".")[0] for n in taken.state_dict().keys() - state.keys()}
    norms = type(taken).__name__ in FRESH
    assert fresh == ({"norm0", "norm1", "norm2"} if norms else set())

    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        maps = model.backbone(image)
        expected = before(image)[-1]
    strides = [96 // m.shape[-2] for m in maps]
    if transfer == "FCN" and name == "resnet18-w8":  # dilated
        assert strides == [4, 8, 8, 8]
        return
    assert strides == [4, 8, 16, 32]
    if expected.ndim == 2:  # a class token: the mean of the map is another feature
        return
    same = maps[2] if place != "backbone" else maps[3]
    assert (same - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("name", "transfer"),
    [
        pytest.param(n, t, marks=[pytest.mark.slow] * ((n, t) not in QUICK))
        for QUICK in [
            {("convnext-atto", "Faster R-CNN"), ("timm:test_vit", "UPerNet")},
        ]
        for n, t in itertools.product(BACKBONES.values(), TRANSFERS)
    ],
)
def test_the_runner_trains_all_of_it(name, transfer, pretrained, demo, tmp_path):
    source = (pretrained(name), 16, None)
    tiny = options(TRANSFERS[transfer], demo, source)
    for gone in ("checkpoint", "depth", "base_channels"):
        tiny.pop(gone)
    tiny |= {"crop_size": [64, 64]} if "crop_size" in tiny else {}
    cfg = config_of(transfer, name, source[0], **tiny, adamw_lr=0.01)
    runner = build_runner(prepare(cfg, work_dir=str(tmp_path)))
    model = runner.model
    model.init_weights()
    trained = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    runner.train()
    now = dict(model.named_parameters())
    moved = {n for n, p in trained.items() if not p.equal(now[n])}
    backbone = {n for n in trained if n.startswith("backbone.")}
    assert len(moved & backbone) > 0.9 * len(backbone)
    # mmpretrain's and timm's need no settings of the user's.
    assert runner.optim_wrapper.optimizer.defaults["lr"] > 0
