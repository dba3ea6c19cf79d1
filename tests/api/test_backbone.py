"""A backbone of a checkpoint as a plain module, by whatever the file tells of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from mmpretrain.models import MobileNetV2, ResNet, ResNet_CIFAR, ResNetV1d, ResNeXt
from PIL import Image

import mmssl_ext
from mmssl_ext.datasets import UnreadableImageError
from mmssl_ext.engine.weights.record import describe_weights
from mmssl_ext.errors import CheckpointFileError, UserError
from tests.models.common import build
from tests.ragged import save_turned, upright

CONFIG = "model = dict(backbone=dict({}))\n"


def randomise(module):
    """Values that an eval-mode BatchNorm does not pass on unchanged."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.2 - 0.1 + ("var" in name))
    module.eval()  # which mmpretrain's ResNet does not return
    return module


def save(path, state, text=None, **meta):
    meta |= {} if text is None else {"cfg": text}
    torch.save({"state_dict": state, "meta": meta}, path)
    return path


def same(module, reference):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps, expected = module(images), reference(images)
    assert isinstance(maps, tuple) and torch.equal(maps[-1], expected[-1])
    assert module.out_channels == maps[-1].shape[1]
    assert not any(m.training for m in module.modules())


def test_the_package_is_imported_without_torch():
    code = "import sys, mmssl_ext; print('torch' in sys.modules, *dir(mmssl_ext))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("False ") and not done.returncode, done.stderr
    assert {"embed", "duplicates", "load_backbone"} <= set(done.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'embeds'"):
        mmssl_ext.embeds  # noqa: B018


@pytest.mark.parametrize("encoder", ["query", "key"])
def test_both_encoders_of_a_checkpoint_of_this_package(encoder, tmp_path):
    model = build("MoCo")
    randomise(model)
    options = "type='ResNet', depth=18, stem_channels=8, base_channels=8"
    path = save(
        tmp_path / "a.pth",
        model.state_dict(),
        CONFIG.format(options + ", with_cp=True"),
    )
    backbone = {"query": model.backbone, "key": model.target.backbone}[encoder]
    found = mmssl_ext.load_backbone(path, encoder)
    same(found, backbone)
    assert found.handover.report.complete
    assert found.train() is found and found.training
    assert found.eval() is found and not found.training  # mmpretrain's return nothing


STRUCTURES = {
    "plain": lambda: ResNet(18, stem_channels=8, base_channels=4),
    "of maps": lambda: ResNet(34, base_channels=8, strides=(1, 2, 2, 1)),
    "bottlenecks": lambda: ResNet(50, base_channels=8),
    "caffe": lambda: ResNet(50, base_channels=8, style="caffe"),
    "deep stem": lambda: ResNetV1d(depth=50, base_channels=8),
    "small images": lambda: ResNet_CIFAR(18, base_channels=8),
    "groups": lambda: ResNeXt(depth=50, groups=4, width_per_group=4, base_channels=64),
}


@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_resnet_by_its_tensors_and_record(kind, tmp_path):
    network = randomise(STRUCTURES[kind]())
    holder = torch.nn.Module()
    holder.backbone = network
    state = {f"backbone.{n}": v for n, v in network.state_dict().items()}
    path = save(tmp_path / "a.pth", state, weights=describe_weights(holder))
    same(mmssl_ext.load_backbone(path), network)


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "resnext50_32x4d"])
def test_a_file_of_torchvision(name, tmp_path):
    network = randomise(getattr(torchvision.models, name)(weights=None))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    maps = torch.nn.Sequential(*list(network.children())[:-2])
    same(mmssl_ext.load_backbone(tmp_path / "a.pth"), lambda x: (maps(x),))


def test_another_network_by_its_config_read_as_data(tmp_path):
    network = randomise(MobileNetV2(widen_factor=0.25))
    options = (
        "type='MobileNetV2', widen_factor=0.25, norm_cfg=dict(type='SyncBN'), "
        "init_cfg=dict(type='Pretrained', checkpoint='http://nowhere.invalid/x.pth')"
    )
    state = {f"backbone.{n}": v for n, v in network.state_dict().items()}
    text = "open('ran', 'w')\n" + CONFIG.format(options)
    found = mmssl_ext.load_backbone(save(tmp_path / "a.pth", state, text))
    same(found, network)
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in found.modules())


def test_what_gives_no_backbone_is_refused_in_a_sentence(tmp_path):
    state = ResNet(18, stem_channels=8, base_channels=4).state_dict()
    other = {"blocks.0.attn.qkv.weight": torch.ones(3, 3)}
    files = {
        "no ResNet, and no config": save(tmp_path / "a.pth", other),
        "trained as Swin, with options that": save(
            tmp_path / "b.pth", other, weights={"backbone": {"type": "Swin"}}
        ),
        r"os\.system of its config cannot be built": save(
            tmp_path / "c.pth", other, CONFIG.format("type='os.system', command='x'")
        ),
        "names 'hf-hub:a/b'": save(
            tmp_path / "d.pth",
            other,
            CONFIG.format("type='TIMMBackbone', model_name='hf-hub:a/b'"),
        ),
        "does not exist|no such|not found": tmp_path / "gone.pth",
        "no tensors": save(tmp_path / "e.pth", {}),
    }
    for words, path in files.items():
        with pytest.raises(CheckpointFileError, match=words) as caught:
            mmssl_ext.load_backbone(path)
        assert path.name in str(caught.value)
    # A config that cannot be built is no reason to refuse a ResNet.
    text = CONFIG.format("type='Gone'")
    mmssl_ext.load_backbone(save(tmp_path / "f.pth", state, text))
    with pytest.raises(CheckpointFileError, match="no key encoder"):
        mmssl_ext.load_backbone(save(tmp_path / "g.pth", state), "key")
    with pytest.raises(UserError, match="encoder='queri' must be"):
        mmssl_ext.load_backbone(tmp_path / "g.pth", "queri")
    five = {n.replace("layer4", "layer5"): v for n, v in state.items()}
    with pytest.raises(CheckpointFileError, match="no ResNet has 2-2-2-2-2 blocks"):
        mmssl_ext.load_backbone(save(tmp_path / "h.pth", state | five))


def test_images_are_prepared_as_the_record_says(tmp_path):
    state = ResNet(18, stem_channels=8, base_channels=4).state_dict()
    images = {"mean": [1.0, 2, 3], "std": [4.0, 5, 6], "channel_order": "BGR"}
    path = save(tmp_path / "a.pth", state, weights={"input": images})
    preprocess = mmssl_ext.load_backbone(path).preprocess
    preprocess.size = 20
    expected = upright()[:, 5:25, ::-1].astype(np.float32).transpose(2, 0, 1)
    expected = (expected - np.array([1, 2, 3])[:, None, None]) / np.array([4, 5, 6])[
        :, None, None
    ]
    files = [save_turned(tmp_path / f"{n}.png", n) for n in (1, 6)]
    images = [*files, str(files[0]), Image.open(files[1]), upright()]
    for image in images:
        found = preprocess(image)
        assert found.dtype == torch.float32 and found.shape == (3, 20, 20)
        torch.testing.assert_close(found.double(), torch.tensor(expected))
    for odd in ({"mean": [1.0, 2, 3], "std": [0.0, 1, 1]}, {"mean": [7.0]}, {}):
        path = save(tmp_path / "a.pth", state, weights={"input": odd})
        assert mmssl_ext.load_backbone(path).preprocess.mean[0] == 123.675
    (tmp_path / "broken.jpg").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="it is empty"):
        preprocess(tmp_path / "broken.jpg")
    with pytest.raises(TypeError, match=r"a path, a PIL image or .* was given list"):
        preprocess([files[0]])


def test_a_safetensors_export_says_how_it_was_built(tmp_path):
    from mmssl_ext.transfer.export import export_backbone

    network = randomise(
        ResNet(18, stem_channels=8, base_channels=8, strides=(1, 2, 2, 1))
    )
    holder = torch.nn.Module()
    holder.backbone = network
    state = {f"backbone.{n}": v for n, v in network.state_dict().items()}
    path = save(tmp_path / "a.pth", state, weights=describe_weights(holder))
    for file in export_backbone(path, tmp_path / "out", ["mm", "safetensors"]).values():
        same(mmssl_ext.load_backbone(file), network)
