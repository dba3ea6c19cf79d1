"""The table tells the truth, and what cannot serve is refused in a sentence."""

from __future__ import annotations

import sys

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmssl_ext.backbones import FAMILIES, backbone_named, network
from mmssl_ext.errors import CheckpointFileError, ConfigError, UserError
from mmssl_ext.run.launch import build_runner, load_config, prepare
from mmssl_ext.transfer import detection  # noqa: F401  (fills registries)
from tests.harness import REPO
from tests.transfer.conftest import demo
from tests.transfer.test_configs import options

from .cases import BACKBONES
from .test_transfer import TRANSFERS, config_of

__all__ = ["demo"]
CONFIGS = REPO / "configs"
NAMES = [name for family in FAMILIES for name in family.examples]
LARGE = [n for n in NAMES if n not in BACKBONES.values()]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in NAMES],
)
def test_maps_are_of_the_channels_and_strides_that_it_says(name):
    init_default_scope("mmdet")
    found = network(name, "transfer")
    levels = {} if found["flat"] else {"out_indices": tuple(found["levels"])}
    module = MODELS.build({**found["backbone"], **levels})
    module.eval()
    with torch.no_grad():
        maps = module(torch.zeros(1, 3, 64, 64))
    strides = [64 // m.shape[-1] for m in maps]
    assert strides == ([16] if found["flat"] else [4, 8, 16, 32])
    channels = [m.shape[1] for m in maps]
    assert channels == (found["stages"][-1:] if found["flat"] else found["stages"])
    assert found["stride"] == strides[-1] and found["channels"] == channels[-1]


def test_every_family_is_in_the_matrix():
    titles = {backbone_named(n).family.title for n in BACKBONES.values()}
    assert titles == {family.title for family in FAMILIES} | {"timm"}
    assert {n for n in BACKBONES if not n.startswith("timm")} >= titles - {"timm"}


def test_names_of_a_resnet_are_one():
    for name in ("ResNet-18-w32", "resnet_18_w32", "resnet18-w32"):
        assert backbone_named(name).name == "resnet18-w32"
    assert backbone_named("resnet50-w64").name == "resnet50"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "convnext-tinny",
            r"no backbone 'convnext-tinny'\. Did you mean convnext-tiny",
        ),
        ("swin-giant", r"no backbone 'swin-giant'"),
        ("resnet18-w0", r"no backbone 'resnet18-w0'\. Did you mean resnet18-w32"),
        ("resnext50-0x4d", r"no backbone 'resnext50-0x4d'"),
        ("mobilenet-v2-w0.0", r"no backbone 'mobilenet-v2-w0\.0'"),
        ("regnetx-1gf", r"no backbone 'regnetx-1gf'"),
        ("timm:resnet18x", r"timm has no model 'resnet18x'\. Did you mean resnet18"),
        ("timm:hf-hub:some/one", r"timm has no model"),
        ("timm:mixer_s16_224", r"strides of 16, 16, 16, not 4, 8, 16 and 32, or 16 in"),
    ],
)
def test_a_name_that_serves_nothing(name, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        network(name)
    assert "\n" not in str(caught.value)


def test_a_model_of_timm_that_has_no_maps(monkeypatch):
    def create(name, **options):
        raise RuntimeError("features_only not implemented for X.")

    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(
        UserError, match=r"builds it without maps \(features_only=True:"
    ):
        backbone_named("timm:resnet26t")


def test_timm_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'mmssl_ext\[timm\]'"):
        backbone_named("timm:resnet34")


@pytest.mark.parametrize(
    ("config", "name", "sentence"),
    [
        ("transfer/detection/faster_rcnn_r50_c4_voc0712.py", "swin-tiny", "with FPN"),
        ("transfer/classification/linear_r50_imagenet.py", "vit-tiny", "FCN or UPer"),
        ("transfer/classification/svm_r50_voc07.py", "convnext-atto", "of a ResNet"),
        ("detco/detco_r18_demo.py", "vit-tiny", "does not serve DetCo, which compares"),
        ("mocov2/mocov2_r18_demo.py", "resnext51", "There is no backbone 'resnext51'"),
    ],
)
def test_a_config_that_a_backbone_does_not_serve(config, name, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_config(CONFIGS / config, {"backbone": name})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("transfer", "option"),
    [
        ("Faster R-CNN", {"model.backbone.out_indices": [3]}),
        ("UPerNet", {"model.backbone.out_indices": [1, 2, 3]}),
    ],
)
def test_maps_that_a_detector_does_not_take(transfer, option, demo, tmp_path):
    tiny = options(TRANSFERS[transfer], demo, (tmp_path / "none", 16, None))
    for gone in ("checkpoint", "depth", "base_channels"):
        tiny.pop(gone)
    cfg = config_of(transfer, "convnext-atto", None, **tiny, **option)
    runner = build_runner(prepare(cfg, work_dir=str(tmp_path / "run")))
    with pytest.raises(
        ConfigError, match=r"takes 40, 80, 160, 320: let model\.backbone"
    ):
        runner.train()
    assert not list((tmp_path / "run").glob("*.pth"))


def test_weights_for_other_channels(tmp_path):
    init_default_scope("mmssl_ext")
    three = MODELS.build(dict(type="mmpretrain.ConvNeXt", arch="atto"))
    torch.save(three.state_dict(), tmp_path / "three.pth")
    load = dict(type="mmssl_ext.PretrainedBackbone", checkpoint=tmp_path / "three.pth")
    five = dict(type="mmpretrain.ConvNeXt", arch="atto", in_channels=5, init_cfg=load)
    with pytest.raises(CheckpointFileError, match=r"3 bands, the model takes 5: set"):
        MODELS.build(five).init_weights()


def test_mmdets_own_swin_computes_the_same(tmp_path):
    """Patch merging could come permuted without a word, so features are compared."""
    init_default_scope("mmdet")
    tiny = dict(depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4])
    ours = MODELS.build(
        dict(
            type="mmpretrain.SwinTransformer",
            arch=dict(embed_dims=16, **tiny),
            pad_small_map=True,
            out_indices=(0, 1, 2, 3),
        )
    )
    torch.manual_seed(0)
    for value in ours.parameters():
        torch.nn.init.normal_(value, std=0.2)
    ours.eval()
    arch = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
    theirs = MODELS.build(dict(type="mmdet.SwinTransformer", **arch))
    theirs.load_state_dict(ours.state_dict())
    theirs.eval()
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for one, other in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("mocov2/mocov2_r50_imagenet.py", "lr"),
        ("byol/byol_r50_imagenet.py", "lr_warmup"),
        ("transfer/detection/mask_rcnn_r50_fpn_coco_1x.py", "lr"),
    ],
)
def test_a_rate_that_would_do_nothing_is_refused(config, name):
    with pytest.raises(
        ConfigError, match=f"AdamW, where {name} does nothing; set adam"
    ):
        load_config(f"mmssl_ext::{config}", {"backbone": "swin-tiny", name: 1})
    assert load_config(f"mmssl_ext::{config}", {name: 1})[name] == 1
    optimizer = "LARS" if "byol" in config else "SGD"
    other = f"adamw_{name.removeprefix('lr_')}"
    with pytest.raises(
        ConfigError, match=f"{optimizer}, where {other} does nothing; set {name}"
    ):
        load_config(f"mmssl_ext::{config}", {other: 1})
