"""What the exporter writes loads where it is meant to, with the same features."""

from __future__ import annotations

import pytest
import torch
import torchvision
from mmpretrain.models import ResNet
from safetensors import safe_open
from torch import nn

from mmssl_ext.engine.weights.files import read_tensors, weights_of
from mmssl_ext.errors import UserError
from mmssl_ext.transfer import fingerprint
from mmssl_ext.transfer.export import LAYOUTS, export_backbone, to_detectron2
from tests.harness import call_tool

from .support import backbone_state, source_checkpoint


@pytest.fixture
def source(tmp_path):
    return tmp_path / "run.pth", source_checkpoint(tmp_path / "run.pth", 50)


def test_every_layout_holds_the_same_tensors(source, tmp_path):
    path, state = source
    files = export_backbone(path, tmp_path / "out" / "co2")
    names = {name: f"co2{end}" for name, end in LAYOUTS.items()}
    assert {layout: file.name for layout, file in files.items()} == names
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(names.values())
    content = torch.load(files["detectron2"], weights_only=True)
    assert content["matching_heuristics"] is True  # for its checkpointer
    for file in files.values():
        assert fingerprint(read_tensors(file)) == fingerprint(state)


def test_torchvision_computes_the_same_features(tmp_path):
    torch.manual_seed(0)
    ours = ResNet(50)
    ours.eval()  # returns nothing in mmpretrain
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    state = {f"backbone.{n}": v for n, v in ours.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    files = export_backbone(tmp_path / "a.pth", tmp_path / "a", ["torchvision"])
    other = torchvision.models.resnet50()
    weights = torch.load(files["torchvision"], weights_only=True)
    result = other.load_state_dict(weights, strict=False)
    assert set(result.missing_keys) == {"fc.weight", "fc.bias"}
    assert not result.unexpected_keys
    other.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = ours(images)[-1].mean((2, 3))
        torch.testing.assert_close(other.eval()(images), expected)


def test_detectron2s_names():
    names = {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_mean": "stem.conv1.norm.running_mean",
        "layer1.0.conv1.weight": "res2.0.conv1.weight",
        "layer1.0.bn3.bias": "res2.0.conv3.norm.bias",
        "layer3.5.bn2.running_var": "res4.5.conv2.norm.running_var",
        "layer4.0.downsample.0.weight": "res5.0.shortcut.weight",
        "layer4.0.downsample.1.weight": "res5.0.shortcut.norm.weight",
    }
    state = backbone_state(50)
    there = to_detectron2(state)
    found = dict(zip(state, there, strict=True))
    assert {name: found[name] for name in names} == names
    assert list(weights_of({"model": there}, "file").tensors) == list(state)


def test_the_origin_travels_along(source, tmp_path):
    path, state = source
    files = export_backbone(path, tmp_path / "a", ["mm", "safetensors"], encoder="key")
    meta = torch.load(files["mm"], weights_only=True)["meta"]
    assert (meta["source"], meta["encoder"]) == ("run.pth", "key")
    assert meta["architecture"].startswith("ResNet-50")
    with safe_open(files["safetensors"], "pt") as file:
        assert meta["source_sha256"] in file.metadata()["mmssl_ext"]
        assert torch.equal(file.get_tensor("bn1.bias"), state["bn1.bias"] + 1)


def test_a_bad_write_leaves_no_file(source, tmp_path, monkeypatch):
    from mmssl_ext.transfer import export

    def corrupt(content, path):
        content["meta"] = {}
        content["state_dict"] = {n: v * 0 for n, v in content["state_dict"].items()}
        save(content, path)

    save = torch.save
    monkeypatch.setattr(export.torch, "save", corrupt)
    (tmp_path / "a_mm.pth").write_text("earlier")
    with pytest.raises(UserError, match="differs from the source"):
        export_backbone(source[0], tmp_path / "a", ["mm"])
    assert (tmp_path / "a_mm.pth").read_text() == "earlier"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_mm.pth", "run.pth"]


def test_the_tool(source, tmp_path, monkeypatch, capsys):
    def run(*args):
        return call_tool("export_backbone", monkeypatch, capsys, source[0], *args)

    code, out, errors = run("--layouts", "timm", "detectron2")
    assert code == 0, errors
    assert out.count("(written, read back, equal)") == 2
    assert (tmp_path / "run_timm.pth").is_file()
    code, _, errors = run("--prefix", "other.")
    assert code == 2
    assert "holds no ResNet below 'other.'" in errors
    assert "The likely prefix is 'backbone.'." in errors
    assert "Traceback" not in errors
