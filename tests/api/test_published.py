"""Weights that torchvision and timm publish, from files that lie here already."""

from __future__ import annotations

import hashlib
import shutil
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
from mmpretrain.models import ResNet

from mmssl_ext.api.networks import backbone_of
from mmssl_ext.engine.weights import published
from mmssl_ext.engine.weights.download import local_path
from mmssl_ext.engine.weights.files import read_weights
from mmssl_ext.errors import CheckpointFileError, UserError
from mmssl_ext.transfer import PretrainedBackbone


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """Torch's cache in a folder of the test."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return torchvision.models.resnet18()


def arrives(name, state):
    """The weights of a name stand in mm's ResNet, tensor by tensor."""
    backbone = ResNet(18, init_cfg=dict(type=PretrainedBackbone, checkpoint=name))
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    return backbone.handover


def test_torchvision(hub, network, tmp_path, monkeypatch):
    """By the address that torchvision knows; the file's name proves its content."""
    file = tmp_path / "resnet18.pth"
    torch.save(network.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    url = f"https://download.pytorch.org/models/resnet18-{digest[:8]}.pth"
    best = SimpleNamespace(DEFAULT=SimpleNamespace(url=url))
    real = torchvision.models.get_model_weights
    assert real("resnet18").DEFAULT.url.startswith("https://download.pytorch.org/")
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: best)
    shutil.copy(file, hub / f"resnet18-{digest[:8]}.pth")
    assert arrives("torchvision:resnet18", network.state_dict()).sha256 == digest
    assert backbone_of("torchvision:resnet18").name == "resnet18"


def test_timm(hub, network, tmp_path, monkeypatch):
    """By timm's own loading, from a file; mean, std and licence come with them."""
    file = tmp_path / "pytorch_model.bin"
    torch.save(network.state_dict(), file)
    create, calls = timm.create_model, []

    def from_file(name, pretrained):
        calls.append(name)
        overlay = dict(file=str(file), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        return create(name, pretrained=pretrained, pretrained_cfg_overlay=overlay)

    monkeypatch.setattr(timm, "create_model", from_file)
    handover = arrives("timm:resnet18.a1_in1k", network.state_dict())
    # timm 1.0.12 does not tell it yet.
    told = timm.models.get_pretrained_cfg_value("resnet18.a1_in1k", "license")
    assert told in ("apache-2.0", None) and handover.license == (told or "")
    assert handover.record["input"]["mean"] == pytest.approx([127.5, 102, 76.5])
    assert handover.record["input"]["std"] == pytest.approx([51, 76.5, 102])
    weights = read_weights(local_path("timm:resnet18.a1_in1k"))
    assert weights.license == handover.license
    assert calls == ["resnet18.a1_in1k"]  # once, then from the cache


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "torchvision:resnet19",
            r"^torchvision has no weights of 'resnet19'\. Did you",
        ),
        ("timm:resnet19", r"^timm has no weights 'resnet19'\. Did you mean resnet18"),
        ("timm:resnet18.none", r"^timm has no weights 'resnet18\.none'\. Did you mean"),
    ],
)
def test_unknown_names_are_answered_by_what_is_near(name, sentence):
    with pytest.raises(CheckpointFileError, match=sentence):
        read_weights(name)


def test_what_cannot_be_had_is_said_in_a_sentence(monkeypatch):
    def fails(name, pretrained):
        raise RuntimeError("no\nroute")

    monkeypatch.setattr(timm, "create_model", fails)
    with pytest.raises(UserError, match=r"'resnet18': no route\. Download them on an"):
        read_weights("timm:resnet18")
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"timm:x needs timm: pip install 'mmssl_ext\["):
        published.timm_file("x")
