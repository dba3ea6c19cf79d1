"""Weights on their way into mmdet and mmseg: R16, R17, R18."""

from __future__ import annotations

import copy
import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.registry import init_default_scope

from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.transfer import HandoverHook, fingerprint, ops
from mmssl_ext.transfer.export import LAYOUTS, export_backbone
from tests.harness import assert_same
from tests.transfer.support import backbone_state, source_checkpoint

ops.install()
import mmdet.models  # noqa: E402
import mmseg.models  # noqa: E402


def detector(backbone: dict) -> torch.nn.Module:
    init_default_scope("mmdet")
    channels = [64, 128, 256, 512]
    anchors = {"scales": [4], "ratios": [1.0], "strides": [8, 16, 32, 64, 128]}
    head = {"num_classes": 3, "in_channels": 16, "feat_channels": 16}
    return mmdet.models.RetinaNet(
        backbone={"type": "ResNet", **backbone},
        neck=dict(type="FPN", in_channels=channels, out_channels=16, num_outs=5),
        bbox_head={
            "type": "RetinaHead",
            "stacked_convs": 1,
            "anchor_generator": {"type": "AnchorGenerator", **anchors},
            **head,
        },
        test_cfg={},
    )


def segmenter(backbone: dict) -> torch.nn.Module:
    init_default_scope("mmseg")
    head = {"in_channels": 512, "channels": 16, "num_convs": 1, "num_classes": 3}
    return mmseg.models.EncoderDecoder(
        backbone={"type": "ResNet", **backbone},
        decode_head={"type": "FCNHead", **head},
        test_cfg={"mode": "whole"},
    )


def resnet50(path: str | Path, **init) -> dict:
    """An R50 of a quarter of the width: 318 tensors."""
    init = {"type": "mmssl_ext.PretrainedBackbone", "checkpoint": str(path), **init}
    return {"depth": 50, "stem_channels": 16, "base_channels": 16, "init_cfg": init}


def refusal(library, path, **init) -> str:
    """The whole model refuses on initialisation; its backbone stays as it was."""
    model = library(resnet50(path, **init))
    before = copy.deepcopy(model.backbone.state_dict())
    with pytest.raises(CheckpointFileError) as error:
        model.init_weights()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(error.value)


@pytest.mark.fault("R16")
@pytest.mark.parametrize("library", [detector, segmenter])
def test_wrong_prefix_hints_at_the_right_one(tmp_path, library):
    source_checkpoint(tmp_path / "a.pth", 50)
    text = refusal(library, tmp_path / "a.pth", prefix="encoder_q.")
    assert "0 of 318 tensors matched" in text
    assert "The likely prefix is 'backbone.'." in text


@pytest.mark.fault("R16")
def test_weights_of_something_else(tmp_path):
    state = {f"blocks.{i}.attn.weight": torch.ones(2) for i in range(318)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    text = refusal(segmenter, tmp_path / "a.pth")
    assert "0 of 318 backbone tensors matched" in text
    assert "file's names begin: blocks.0.attn.weight" in text
    assert "model's names begin: conv1.weight" in text


KERNEL = "layer1.0.conv1.kernel"  # by which name a weight is not known
DAMAGE = {
    "60 percent of the names": (
        lambda state: dict(list(state.items())[: int(0.6 * 318)]),
        ["190 of 318 tensors matched (59.7 %)", "128 missing in the file: layer3.2."],
    ),
    "a tensor of another shape": (
        lambda state: state | {"layer4.2.conv3.weight": torch.zeros(8, 128, 1, 1)},
        [
            "317 of 318 tensors matched",
            "layer4.2.conv3.weight ((8, 128, 1, 1) in the file, (512, 128, 1, 1)",
        ],
    ),
    "a tensor of another name": (
        lambda state: {n.replace("layer1.0.conv1.weight", KERNEL): v
                       for n, v in state.items()},
        ["1 missing in the file: layer1.0.conv1.weight", KERNEL],
    ),
}  # fmt: skip


@pytest.mark.fault("R17")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_backbone_with_a_part_that_does_not_fit(tmp_path, kind):
    damage, parts = DAMAGE[kind]
    state = {f"backbone.{n}": v for n, v in damage(backbone_state(50)).items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    text = refusal(detector, tmp_path / "a.pth")
    assert all(part in text for part in parts), text


@pytest.mark.fault("R18")
@pytest.mark.parametrize(
    ("library", "layout"), [*((detector, x) for x in LAYOUTS), (segmenter, "mm")]
)
def test_export_to_init_every_tensor_has_its_hash(tmp_path, caplog, library, layout):
    expected = source_checkpoint(tmp_path / "run.pth", 50)
    file = export_backbone(tmp_path / "run.pth", tmp_path / "out", [layout])[layout]
    model = library(resnet50(file))
    model.init_weights()
    found = model.backbone.state_dict()
    assert len(found) == 318
    assert_same(dict(found), dict(expected))

    logger = logging.getLogger("mmssl_ext_fault_r18")
    logger.setLevel("INFO")
    runner = SimpleNamespace(model=model, iter=0, _load_from=None, logger=logger)
    with caplog.at_level("INFO", logger.name):
        HandoverHook().before_train(runner)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"backbone: Backbone from {file} (sha256 {digest[:12]})" in caplog.text
    assert "318 of 318 tensors matched (100.0 %)" in caplog.text
    assert "All stand in the model." in caplog.text
    assert model.backbone.handover.fingerprint == fingerprint(expected)

    with torch.no_grad():  # the check sees one bit
        weight = model.backbone.layer3[4].conv2.weight
        weight.view(torch.int32)[0, 0, 0, 0] ^= 1
    with pytest.raises(CheckpointFileError, match="changed before training began"):
        HandoverHook().before_train(runner)
    runner.iter = 5  # a resumed run has trained them
    HandoverHook().before_train(runner)
