"""Weights that no working network has are refused, and no others."""

import math
import re

import pytest
import torch
import torchvision
from mmengine.registry import init_default_scope
from mmpretrain.models import ResNet

from mmssl_ext.chain.spec import check_stages, read_chain
from mmssl_ext.engine.checkpoint.read import check_checkpoint_file, find_resumable
from mmssl_ext.engine.checkpoint.resume import check_finite
from mmssl_ext.engine.weights.strict import load_strictly
from mmssl_ext.engine.weights.values import state_faults, value_faults
from mmssl_ext.errors import CheckpointFileError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer.export import export_backbone
from mmssl_ext.transfer.handover import PretrainedBackbone
from tests.transfer.support import backbone_state

CONV = "layer4.1.conv2.weight"


def with_value(name, value):
    return lambda n, v: torch.full_like(v, value) if n == name else v


def changed(state, change):
    return {n: change(n, v) if v.is_floating_point() else v for n, v in state.items()}


def one_element(name, value):
    def change(n, v):
        if n == name:
            v = v.clone()
            v.view(-1)[-1] = value
        return v

    return change


SICK = {
    "all NaN": (lambda n, v: v * math.nan, "conv1.weight, .* and .* more: NaN"),
    "one NaN": (one_element(CONV, math.nan), f"{CONV}: NaN"),
    "-inf": (one_element(CONV, -math.inf), f"{CONV}: infinite"),
    "float16 overflow": (
        lambda n, v: (v * 1e6).half(),
        r"conv1\.weight.*infinite \(beyond the range of float16\)",
    ),
    "float64 beyond float32": (
        lambda n, v: v.double() * 1e60,
        "infinite in float32",
    ),
    "huge": (with_value(CONV, 1e30), f"{CONV}: values beyond 1e"),
    "negative variance": (
        one_element("layer2.0.bn1.running_var", -1e-3),
        r"layer2\.0\.bn1\.running_var: negative variances",
    ),
    "zero variance": (
        with_value("bn1.running_var", 0),
        "bn1.running_var: a variance of 0 in every channel",
    ),
    "all zero": (lambda n, v: torch.zeros_like(v), "conv1.weight.*: 0 throughout"),
    "one conv zero": (with_value(CONV, 0), f"{CONV}: 0 throughout"),
    "one conv constant": (with_value(CONV, 0.5), f"{CONV}: 0.5 throughout"),
    "dead shortcut": (
        with_value("layer2.0.downsample.0.weight", 0),
        r"layer2\.0\.downsample\.0\.weight: 0 throughout",
    ),
    "dead stem": (with_value("bn1.weight", 0), r"bn1\.weight: 0 throughout"),
    "dead block": (with_value("layer1.0.bn1.weight", 0), r"bn1\.weight: 0 throughout"),
    "int8": (lambda n, v: v.to(torch.int8), "int8 in place of floating-point numbers"),
    "float8": (lambda n, v: v.to(torch.float8_e4m3fn), "float8_e4m3fn in place of"),
    "sparse": (lambda n, v: v.to_sparse(), "a sparse tensor"),
}


@pytest.mark.fault("R42")
@pytest.mark.parametrize("kind", SICK)
def test_sick_weights_are_named(kind):
    change, said = SICK[kind]
    (fault, *_) = value_faults(changed(backbone_state(), change))
    assert re.search(said, fault)


SOUND = {
    "float16": lambda n, v: v.half(),
    "bfloat16": lambda n, v: v.bfloat16(),
    "float64": lambda n, v: v.double(),
    "last norms at zero": lambda n, v: v * 0 if n.endswith("bn2.weight") else v,
    "biases at zero": lambda n, v: v * 0 if n.endswith("bias") else v,
    "means at zero": lambda n, v: v * 0 if n.endswith("running_mean") else v,
    "a dead channel": one_element("bn1.running_var", 0),
    "tiny": lambda n, v: v * 1e-12,
    "wide variances": lambda n, v: v * 1e9 if n.endswith("var") else v,
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_weights_are_let_pass(kind):
    assert value_faults(changed(backbone_state(), SOUND[kind])) == []


def test_masks_of_attention_are_let_pass():
    mask = torch.full((4, 4), -math.inf).triu(1)
    assert value_faults({"attn_mask": mask}) == []
    assert value_faults({"attn_mask": -mask}) == ["attn_mask: infinite"]
    assert value_faults({"attn_mask": mask + 1}) == ["attn_mask: infinite"]


@pytest.mark.parametrize(
    "build",
    [
        lambda: torchvision.models.resnet18(zero_init_residual=True),
        lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32),
        torchvision.models.mobilenet_v3_small,
    ],
)
def test_fresh_networks_are_let_pass(build):
    assert value_faults(build().state_dict()) == []


@pytest.mark.parametrize("name", ["interclr/interclr", "regioncl/regionclm"])
def test_fresh_methods_are_let_pass(name):
    cfg = load_config(f"configs/{name}_r18_demo.py")
    init_default_scope("mmssl_ext")
    model = MODELS.build(cfg.model)
    assert value_faults(model.state_dict()) == []


def test_convolutions_that_start_at_zero_on_purpose():
    """Those of offsets, of non-local blocks, of Fixup; no norm follows them."""
    state = backbone_state() | {
        "extra.0.conv2.weight": torch.zeros(16, 16, 3, 3),
        "layer2.0.conv2_offset.weight": torch.zeros(18, 16, 3, 3),
        "layer3.0.plugin.conv_out.weight": torch.zeros(16, 8, 1, 1),
    }
    assert value_faults(state) == []


def test_most_of_the_weights_are_zero():
    state = {f"blocks.{i}.attn.qkv.weight": torch.zeros(8, 8) for i in range(3)}
    (fault,) = value_faults(state | {"head.weight": torch.rand(2, 8)})
    assert "blocks.2.attn.qkv.weight: all 0, as are most weights" in fault


def sick_file(path, change, prefix="backbone."):
    state = changed(backbone_state(), change)
    torch.save({"state_dict": {prefix + n: v for n, v in state.items()}}, path)
    return path


@pytest.mark.fault("R42")
def test_a_transfer_refuses_and_writes_nothing(tmp_path):
    path = sick_file(tmp_path / "a.pth", SICK["one NaN"][0])
    model = ResNet(18, stem_channels=16, base_channels=16)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointFileError, match=rf"a\.pth holds.*backbone\.{CONV}"):
        PretrainedBackbone(str(path))(model)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.fault("R42")
def test_the_export_refuses_and_writes_nothing(tmp_path):
    path = sick_file(tmp_path / "a.pth", SICK["negative variance"][0])
    with pytest.raises(CheckpointFileError, match="negative variances"):
        export_backbone(path, tmp_path / "out" / "a", ["mm"])
    assert not (tmp_path / "out").exists()


def test_evaluation_refuses(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    torch.save(model.state_dict(), tmp_path / "good.pth")
    load_strictly(model, tmp_path / "good.pth")
    state = model.state_dict() | {"1.running_mean": torch.tensor([math.nan, 0])}
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointFileError, match=r"bad\.pth.*1\.running_mean: NaN"):
        load_strictly(model, tmp_path / "bad.pth")


def test_states_of_training_are_searched_to_their_depths():
    momentum = {0: {"momentum_buffer": torch.tensor([1.0, math.inf])}}
    state = {"state_dict": {"w": torch.ones(2)}, "optimizer": {"state": momentum}}
    assert state_faults(state) == ["optimizer.state.0.momentum_buffer: infinite"]
    beside = {"message_hub": {"loss": torch.tensor(math.nan)}}  # a logged value
    assert state_faults({"state_dict": {"w": torch.zeros(2)}, **beside}) == []


def test_a_resume_passes_over_a_state_that_diverged(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "epoch_1.pth")
    sick = {"state_dict": {"w": torch.tensor([1.0, math.nan])}}
    torch.save(sick, tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_2.pth"))
    found, notes = find_resumable(tmp_path)
    assert found == tmp_path / "epoch_1.pth"
    assert re.search(r"epoch_2\.pth comes from a run that diverged .*w: NaN", notes[0])
    with pytest.raises(CheckpointFileError, match="a run that diverged"):
        check_checkpoint_file(tmp_path / "epoch_2.pth", resume=True)
    check_checkpoint_file(tmp_path / "epoch_2.pth")
    with pytest.raises(CheckpointFileError, match=r"2\.pth comes from .*w: NaN"):
        check_finite(sick, "epoch_2.pth")  # as ExactResumeHook does in any runner


def test_a_chain_looks_at_its_sources_before_the_first_stage(tmp_path):
    sick_file(tmp_path / "bad.pth", SICK["one NaN"][0])
    (tmp_path / "chain.py").write_text(
        'sources = dict(mocov2="bad.pth")\n'
        'config = "configs/transfer/classification/linear_r50_imagenet.py"\n'
        "transfers = dict(linear=dict(config=config))\n"
    )
    with pytest.raises(CheckpointFileError, match=rf"bad\.pth.*backbone\.{CONV}: NaN"):
        check_stages(read_chain(tmp_path / "chain.py").stages)
