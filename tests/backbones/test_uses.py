"""What a checkpoint of any backbone serves for: features, export, starts, teachers."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from mmengine.registry import init_default_scope

import mmssl_ext
from mmssl_ext.api.networks import backbone_for, backbone_of, teachers_of
from mmssl_ext.api.pretrain import RECIPE, pretrain
from mmssl_ext.engine.weights import download
from mmssl_ext.errors import UserError
from mmssl_ext.fit import pooled
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config, prepare
from mmssl_ext.transfer.export import export_backbone

from .cases import BACKBONES, some
from .test_pretraining import build
from .test_transfer import built, original

QUIET = {"default_hooks.learned": None, "default_hooks.report": None}
EVERY = list(BACKBONES.values())


@pytest.mark.parametrize(
    ("name", "use"),
    some(list(itertools.product(EVERY, ("load", "export"))), 4, heavy=False),
)
def test_features_are_those_of_the_checkpoint(name, use, pretrained, images, tmp_path):
    checkpoint = pretrained(name)
    expected = original(name, checkpoint)
    if use == "load":
        files = [checkpoint]
    else:
        files = export_backbone(checkpoint, tmp_path / "a", ["mm", "safetensors"])
        files = [*files.values()]
    seen = torch.randn(2, 3, 64, 64)
    for file in files:
        found = mmssl_ext.load_backbone(file)
        with torch.no_grad():
            assert torch.equal(found(seen)[-1], expected(seen)[-1])
    assert backbone_of(checkpoint).name == name


@pytest.mark.parametrize("name", some([(n,) for n in EVERY], 5, heavy=False))
def test_knn_is_of_the_features_of_the_checkpoint(name, pretrained):
    checkpoint = pretrained(name)
    chosen = {"backbone": name, "checkpoint": str(checkpoint)}
    cfg = load_config("transfer/classification/knn_r50_imagenet.py", chosen)
    model = built(cfg)
    seen = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = model.backbone(seen), original(name, checkpoint)(seen)
    if expected[-1].ndim == 4:
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-5, atol=1e-5)
    assert pooled(found).shape == pooled(expected).shape


def test_embed_and_the_other_layouts(pretrained, images, tmp_path):
    checkpoint = pretrained("convnext-atto")
    found = mmssl_ext.embed(checkpoint, images, size=64, workers=0)
    assert found.features.shape == (18, 320)
    with pytest.raises(UserError, match=r"ConvNeXt that is no ResNet; torchvision"):
        export_backbone(checkpoint, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "method"),
    [
        pytest.param("vit-tiny", "byol", marks=pytest.mark.matrix),
        pytest.param("timm:test_vit", "densecl", marks=pytest.mark.slow),
        pytest.param("convnext-atto", "co2", marks=pytest.mark.slow),
        pytest.param("regnetx-400mf", "mocov2", marks=pytest.mark.slow),
    ],
)
def test_pretrain_by_name_then_from_its_weights(name, method, images, tmp_path):
    """The recipe says rate and network; the next run begins with the weights."""
    small = dict(image_size=32, num_workers=0, epochs=1, options=QUIET)
    first = pretrain(images, tmp_path / "a", method, name, **small)
    text = (tmp_path / "a" / RECIPE).read_text()
    assert f'backbone = "{name}"' in text
    adamw = not name.startswith("regnet")
    assert ("adamw_lr = " in text) == adamw and ("\nlr = " in text) != adamw
    assert not adamw or "bn_splits" not in text
    second = pretrain(images, tmp_path / "b", method, init=first, **small)
    text = (tmp_path / "b" / RECIPE).read_text()
    assert f'backbone = "{name}"' in text and str(first) in text
    cfg = load_config(tmp_path / "b" / RECIPE)
    prepare(cfg, work_dir="unused")
    model = build(cfg)
    taken = torch.load(first, weights_only=True)["state_dict"]
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, taken[f"backbone.{key}"]), key
    assert second.is_file()


def test_a_vit_keeps_the_positions_that_it_is_given(pretrained):
    """mmpretrain's transformers draw their positions behind all that was loaded."""
    checkpoint = pretrained("vit-tiny")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for kind in ("ContrastiveViT", "VisionTransformer"):
        load = dict(type="PretrainedBackbone", checkpoint=str(checkpoint))
        arch = dict(arch="deit-tiny", img_size=224, patch_size=16)
        vit = MODELS.build(dict(type=kind, **arch, init_cfg=load))
        vit.init_weights()
        assert torch.equal(vit.pos_embed, state["backbone.pos_embed"])
        assert torch.equal(vit.cls_token, state["backbone.cls_token"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """timm's weights of a name, made here."""
    made = {}

    def file(name):
        if name not in made:
            torch.manual_seed(0)
            path = tmp_path / f"{name}.pth"
            torch.save(timm.create_model(name.split(".")[0]).state_dict(), path)
            made[name] = path
        return made[name]

    monkeypatch.setattr(download, "timm_file", file)
    return file


TEACHERS = ("test_vit.r160_in1k", "test_efficientnet", "test_convnext", "resnet18")


@pytest.mark.parametrize("name", TEACHERS)
def test_networks_of_timm_teach(name, hub):
    """By what timm itself computes before the classifier."""
    (teacher,) = teachers_of(f"timm:{name}")
    options = {"backbone": "resnet18-w8", "teacher_checkpoint": "none"}
    cfg = load_config("simreg/simreg_r18_imagenet.py", options)
    cfg.model.teacher = teacher
    prepare(cfg, work_dir="unused")
    model = build(cfg)
    reference = timm.create_model(name.split(".")[0], num_classes=0)
    state = torch.load(hub(name), weights_only=True)
    reference.load_state_dict(
        {n: v for n, v in state.items() if n in reference.state_dict()}
    )
    seen = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = reference.eval()(seen)
        found = model.target.see(model, seen)["projection"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    loss = model([seen], mode="loss", index=torch.arange(2))["loss_instance"]
    loss.backward()
    assert model.target.dim == expected.shape[1] and loss > 0


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_weights_of_timm_start_a_pretraining(name, hub):
    found = backbone_for(None, f"timm:{name}", "resnet18")
    assert found.name == f"timm:{name}"
    init_default_scope("mmssl_ext")
    load = dict(type="PretrainedBackbone", checkpoint=f"timm:{name}")
    backbone = MODELS.build({**found.pretraining(), "init_cfg": load})
    backbone.init_weights()
    assert backbone.handover.report.complete
    reference = timm.create_model(name, features_only=True)
    state = torch.load(hub(name), weights_only=True)
    inner = {k.removeprefix("timm_model."): v for k, v in backbone.state_dict().items()}
    assert inner.keys() == reference.state_dict().keys()
    held = sum(any(torch.equal(v, x) for x in state.values()) for v in inner.values())
    assert held == len(inner)


@pytest.mark.parametrize("name", ["convnext-atto", "vit-tiny-token"])
def test_runs_of_this_package_teach(name, pretrained):
    (teacher,) = teachers_of(pretrained(name))
    options = {"backbone": "mobilenet-v3-small-050", "teacher_checkpoint": "none"}
    cfg = load_config("simreg/simreg_r18_imagenet.py", options)
    cfg.model.teacher = teacher
    prepare(cfg, work_dir="unused")
    model = build(cfg)
    seen = torch.randn(2, 3, 64, 64)
    loss = model([seen], mode="loss", index=torch.arange(2))["loss_instance"]
    loss.backward()
    assert model.target.dim == (320 if "conv" in name else 192)


def test_a_file_that_tells_nothing_is_refused(tmp_path):
    torch.save({"a.weight": torch.ones(3, 3)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="does not tell which network it is of; say"):
        backbone_of(tmp_path / "a.pth")
