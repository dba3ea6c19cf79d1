"""A backbone as ONNX and TorchScript: run by their own runtimes, compared to torch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmpretrain.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer

import mmssl_ext
from mmssl_ext.api.graphs import export_graphs
from mmssl_ext.errors import UserError
from tests.api.test_backbone import CONFIG, save
from tests.harness import call_tool

TINY = "dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)"
SWIN = "dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2])"
# Options of the backbone, its class, any batch, any size, outputs.
NETWORKS = {
    "resnet": (
        "type='ResNet', depth=18, stem_channels=8, base_channels=4, out_indices=(1, 3)",
        ResNet,
        (True, True, ("features", "map0", "map1")),
    ),
    "convnext": (
        "type='ConvNeXt', arch=dict(depths=[1, 1, 1, 1], channels=[4, 8, 8, 16]), "
        "gap_before_final_norm=False",
        ConvNeXt,
        (True, True, ("features", "map")),
    ),
    "vit": (
        f"type='VisionTransformer', arch={TINY}, img_size=64, patch_size=16",
        VisionTransformer,
        (True, False, ("features",)),
    ),
    "swin": (
        f"type='SwinTransformer', arch={SWIN}, img_size=64, window_size=2",
        SwinTransformer,
        (False, False, ("features", "map")),
    ),
}


def trained(module):
    """As after training: norms that do something, features that differ by image."""
    torch.manual_seed(0)
    with torch.no_grad():
        module.train()
        for _ in range(20):  # for the statistics of BatchNorm
            module(torch.randn(4, 3, 64, 64))
        module.eval()
        first, second = module(torch.randn(2, 3, 64, 64))[-1]
    assert (first - second).abs().max() > 0.05 * first.abs().max()
    return module


@pytest.fixture
def checkpoint(tmp_path):
    def write(name):
        options, kind, expected = NETWORKS[name]
        values = eval(f"dict({options})")
        values.pop("type")
        holder = torch.nn.Module()
        holder.backbone = trained(kind(**values))
        path = tmp_path / f"{name}.pth"
        return save(path, holder.state_dict(), CONFIG.format(options)), expected

    return write


def onnx_run(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map["mmssl_ext"]
    names = [value.name for value in session.get_outputs()]
    return session.run(None, {"images": images.numpy()}), names, json.loads(about)


def script_run(path, images):
    extra = {"mmssl_ext": ""}
    module = torch.jit.load(path, _extra_files=extra)
    return [x.numpy() for x in module(images)], None, json.loads(extra["mmssl_ext"])


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_computes_what_torch_does(name, kind, checkpoint, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    path, (any_batch, any_size, outputs) = checkpoint(name)
    graph = export_graphs(path, tmp_path / "w", [kind], size=64)[kind]
    assert graph.outputs == outputs and graph.difference < 1e-5
    if kind == "onnx":
        assert (graph.any_batch, graph.any_size) == (any_batch, any_size)
    shape = (
        5 if graph.any_batch else 2,
        3,
        *((90, 71) if graph.any_size else (64, 64)),
    )
    images = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    found, names, about = (onnx_run if kind == "onnx" else script_run)(
        str(graph.path), images
    )
    backbone = mmssl_ext.load_backbone(path)
    with torch.no_grad():
        last = backbone(images)
    assert len(found) == len(outputs) and names in (None, list(outputs))
    for value, expected in zip(found[1:], last, strict=len(found) > 1):
        np.testing.assert_allclose(value, expected.numpy(), rtol=1e-4, atol=1e-5)
    pooled = last[-1].flatten(2).mean(2) if last[-1].ndim == 4 else last[-1]
    np.testing.assert_allclose(found[0], pooled.numpy(), rtol=1e-4, atol=1e-5)
    assert about["channel_order"] == "RGB" and len(about["mean"]) == 3
    assert about["source"] == path.name and about["any_size"] == graph.any_size


def test_a_graph_that_computes_something_else_is_no_file(
    checkpoint, tmp_path, monkeypatch
):
    path, _ = checkpoint("resnet")
    trace = torch.jit.trace

    def other(network, *args, **options):
        traced = trace(network, *args, **options)
        with torch.no_grad():
            traced.backbone.conv1.weight.mul_(1.1)
        return traced

    monkeypatch.setattr("torch.jit.trace", other)
    with pytest.raises(UserError, match=r"ResNet cannot be written .* differ from tor"):
        export_graphs(path, tmp_path / "w", ["torchscript"], size=64)
    assert not [*tmp_path.glob("*torchscript*")]


def test_the_command_and_its_refusals(checkpoint, tmp_path, monkeypatch, capsys):
    path, _ = checkpoint("resnet")

    def run(*args):
        return call_tool("export_backbone", monkeypatch, capsys, path, *args)

    to = ("--to", "torchscript", "safetensors", "--size", "64")
    code, out, _ = run("--out", tmp_path / "w", *to)
    assert code == 0 and "features, map0, map1 of any number of images of any" in out
    assert (tmp_path / "w_torchscript.pt").is_file()
    assert (tmp_path / "w.safetensors").is_file()
    code, _, errors = run("--to", "onnx", "--trust")
    assert code == 2 and "--prefix and --trust do not serve --to onnx" in errors
    code, _, errors = run("--to", "torchscript", "--size", "0")
    assert code == 2 and "0 x 0" in errors
    monkeypatch.setattr("mmssl_ext.api.graphs.find_spec", lambda name: None)
    code, _, errors = run("--to", "onnx")
    assert code == 2 and "pip install 'mmssl_ext[onnx]'" in errors
