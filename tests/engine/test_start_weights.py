"""What a run starts from by ``load_from`` arrives, or the run is refused."""

import copy
import types

import pytest
import torch
import torchvision
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmpretrain.models import ResNet
from torch import nn

from mmssl_ext.engine.checkpoint.resume import check_kind
from mmssl_ext.engine.weights.start import advice, check_start
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer import mmengine_init
from tests.harness import config, make_runner
from tests.transfer.support import backbone_state

NARROW = {
    "model.backbone.base_channels": 16,
    "model.backbone.stem_channels": 16,
    "model.neck.in_channels": 128,
    "queue_len": 32,
}


def method(name="co2/co2_r18_demo", **options):
    init_default_scope("mmssl_ext")
    cfg = load_config(f"configs/{name}.py", NARROW | options)
    return MODELS.build(cfg.model)


@pytest.fixture(scope="module")
def co2():
    torch.manual_seed(0)
    return method()


def checkpoint(model, prefix="", **more):
    state = {prefix + n: v.clone() for n, v in model.state_dict().items()}
    return {"state_dict": state, **more}


def refused(model, content, training=True):
    with pytest.raises(CheckpointFileError) as caught:
        check_start(model, content, "file.pth", training)
    return str(caught.value)


def test_the_whole_model_or_nothing(co2):
    content = checkpoint(co2)
    assert check_start(co2, content, "file.pth") == []
    assert check_start(co2, checkpoint(co2, "module."), "file.pth") == []
    del content["state_dict"]["neck.fc.weight"]
    text = refused(co2, content)
    assert "load_from=file.pth does not fit: 247 of 248 tensors matched" in text
    assert "1 missing in the file: neck.fc.weight" in text
    assert "It holds a backbone that fits, under 'backbone.'" in text


def test_a_queue_of_another_length_starts_empty(co2):
    content = checkpoint(method(queue_len=64))
    with pytest.raises(CheckpointFileError, match="not fit the model of the config"):
        check_start(co2, content, "file.pth", training=False, exact=True)
    (note,) = check_start(co2, content, "file.pth")
    assert note.startswith("compare.queue has other sizes in the checkpoint")
    assert not [n for n in content["state_dict"] if n.startswith("compare.queue.")]


CONSISTENCY = {"type": "Consistency", "temperature": 0.1, "queue_len": 32}
REGIONS = {"type": "Regions", "cells": (1, 2), "stride": 16}


def test_terms_that_train_nothing_come_and_go():
    options = {n: v for n, v in NARROW.items() if n != "queue_len"}

    def byol(*terms):
        cfg = load_config("configs/byol/byol_r18_demo.py", options)
        return cfg.model | {"terms": list(terms)}

    plain, more = (MODELS.build(byol(*t)) for t in ((), (CONSISTENCY, REGIONS)))
    wanted = set(plain.state_dict())
    content = checkpoint(more)
    assert check_start(plain, content, "file.pth") == [
        f"terms.{name} of the checkpoint is not used: the model has not got it."
        for name in ("consistency", "region")
    ]
    assert set(content["state_dict"]) == wanted
    assert check_start(more, checkpoint(plain), "file.pth") == [
        f"terms.{name} is not in the checkpoint: it starts empty."
        for name in ("consistency", "region")
    ]
    # A head of its own would be random.
    dense = MODELS.build(byol({"type": "Dense"}))
    assert "terms.dense.head" in refused(dense, checkpoint(plain))
    assert "target.dense_head" in refused(plain, checkpoint(dense))


def moco(prefix="module.encoder_q."):
    """In the layout of the official MoCo."""
    state = {f"{prefix}{n}": v for n, v in backbone_state().items()}
    return {"state_dict": state | {"module.queue": torch.ones(2, 2)}, "optimizer": {}}


def prefixed(prefix):
    return {f"{prefix}{n}": v for n, v in backbone_state().items()}


FOREIGN = {
    "moco": (moco(), "module.encoder_q."),
    "bare": (prefixed(""), ""),
    "model": ({"model": prefixed("")}, ""),
    "model_state_dict": ({"model_state_dict": prefixed("")}, ""),
    "net": ({"net": prefixed("net.")}, "net."),
    "student": (
        {
            "student": prefixed("backbone."),
            "teacher": prefixed("backbone."),
            "optimizer": {"state": {0: {"m": torch.ones(1)}}},
        },
        "student.backbone.",
    ),
}


@pytest.mark.fault("R43")
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_with_the_way_that_works(co2, kind):
    content, prefix = FOREIGN[kind]
    text = refused(co2, copy.deepcopy(content))
    assert f"It holds a backbone that fits, under '{prefix}'" in text
    assert "model.backbone.init_cfg.type=mmssl_ext.PretrainedBackbone" in text
    assert "model.backbone.init_cfg.checkpoint=file.pth" in text


def test_another_architecture_is_named(co2):
    content = {f"module.encoder_q.{n}": v for n, v in backbone_state(18, 8).items()}
    text = refused(co2, {"state_dict": content})
    assert "Nor does its backbone, under 'module.encoder_q.', fit: The model" in text
    assert "width of 16 in bn1.weight, the file holds a width of 8 in bn1." in text
    assert advice(co2, {"w": torch.ones(1)}, "f").endswith("no backbone of this kind.")


def test_sick_weights_are_refused(co2):
    content = checkpoint(co2)
    content["state_dict"]["neck.fc.bias"][0] = float("nan")
    assert "neck.fc.bias: NaN" in refused(co2, content)


def test_what_was_trained_otherwise_is_said(co2):
    record = {
        "backbone": {"strides": [1, 2, 2, 1]},
        "input": {"mean": [0, 0, 0], "std": [255, 255, 255], "channel_order": "RGB"},
    }
    content = checkpoint(co2, meta={"weights": record})
    structure, images = check_start(co2, content, "file.pth")
    assert "strides (1, 2, 2, 1) in the file, (1, 2, 2, 2) here" in structure
    assert "mean [0, 0, 0] in the file, [123.675, 116.28, 103.53] here" in images
    assert "std [255, 255, 255] in the file" in images
    assert structure == refused(co2, content, training=False)


class Detector(BaseModule):
    def __init__(self, classes=3):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, classes)


def test_a_detector_must_have_its_backbone_and_may_have_another_head():
    model = Detector()
    assert check_start(model, checkpoint(model), "file.pth") == []
    (text,) = check_start(model, checkpoint(Detector(5)), "file.pth")
    assert "What is missing starts at random." in text
    assert (
        "\n  2 of another shape: head.weight ((5, 4) in the file, (3, 4) here)" in text
    )
    content = checkpoint(model)
    del content["state_dict"]["backbone.1.running_var"]
    assert "6 of 7 tensors matched" in (text := refused(model, content))
    assert "Every tensor of the backbone must be there" in text
    assert "0 of 6 tensors" in refused(model, {"state_dict": {"w": torch.ones(1)}})
    # and a test needs every tensor
    assert check_start(model, checkpoint(model), "file.pth", training=False) == []
    text = refused(model, checkpoint(Detector(5)), training=False)
    assert "Every tensor of the model must be there" in text


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def pretrained(path, depth=18, **options):
    init_cfg = dict(type="Pretrained", checkpoint=str(path), **options)
    return ResNet(depth, init_cfg=init_cfg)


def test_mmengines_initializer_takes_what_fits(resnet):
    model = pretrained(resnet)
    model.init_weights()
    state = torch.load(resnet, weights_only=True)
    name = "layer4.1.conv2.weight"
    assert torch.equal(model.state_dict()[name], state[name])


def test_mmengines_initializer_refuses_another_network(resnet):
    model = pretrained(resnet, depth=50)
    with pytest.raises(CheckpointFileError, match=r"model is a ResNet-50.*ResNet-18"):
        model.init_weights()
    with pytest.raises(CheckpointFileError, match=r"0 of 120 tensors.*prefix is ''"):
        pretrained(resnet, prefix="backbone.").init_weights()


def test_mmengines_initializer_warns_of_parts(resnet, tmp_path, monkeypatch):
    """Offsets of deformable convolutions start at random by design."""
    said = []
    monkeypatch.setattr(mmengine_init, "print_log", lambda text, *_: said.append(text))
    state = torch.load(resnet, weights_only=True)
    del state["layer1.0.bn1.bias"]
    torch.save(state, tmp_path / "part.pth")
    pretrained(tmp_path / "part.pth").init_weights()
    (text,) = said
    assert "119 of 120 tensors matched" in text
    assert "1 missing in the file: layer1.0.bn1.bias" in text


def test_a_run_is_refused_before_a_step(images, tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save(backbone_state(), path)
    cfg = config(images, tmp_path / "run")
    cfg.load_from = str(path)
    runner = make_runner(cfg)
    with pytest.raises(CheckpointFileError, match=r"foreign\.pth does not fit: 0 of"):
        runner.train()
    assert runner.iter == 0


def test_a_resume_from_mere_weights_names_the_way(tmp_path, co2):
    runner = types.SimpleNamespace(model=co2, _load_from="f.pth")
    with pytest.raises(CheckpointFileError) as caught:
        check_kind(runner, moco())
    text = str(caught.value)
    assert "cannot be resumed from f.pth: it holds weights, but no state of a" in text
    assert "under 'module.encoder_q.'" in text
    assert "model.backbone.init_cfg.checkpoint=f.pth" in text
    with pytest.raises(CheckpointFileError, match="load_from=FILE in place of"):
        check_kind(runner, checkpoint(co2))
    check_kind(runner, {"meta": {"epoch": 1, "iter": 1}})


def test_the_configs_bring_the_check_along():
    for name in ("co2/co2_r18_demo", "transfer/classification/linear_r50_imagenet"):
        hook = load_config(f"configs/{name}.py").default_hooks.weights
        assert hook.type.endswith("LoadedWeightsHook")
