"""A pretrained feature pyramid arrives in a detector whole, with its backbone."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope

from mmssl_ext.errors import CheckpointFileError, ConfigError, UserError
from mmssl_ext.run.launch import build_runner, load_config, prepare
from mmssl_ext.transfer import HandoverHook, PretrainedNeck, fingerprint, ops
from mmssl_ext.transfer.export import export_backbone
from mmssl_ext.transfer.handover import handovers

from .support import source_checkpoint
from .test_configs import ROOT, options

ops.install()
from mmdet.models.necks import FPN  # noqa: E402

CONFIG = "detection/faster_rcnn_r50_fpn_voc0712.py"
NORM = dict(type="BN", requires_grad=True)


def pretrained(path, width=16, channels=64, seed=0):
    """A checkpoint as CCOP writes it, of random values; the state of its online FPN."""
    source_checkpoint(path, 18, width)
    content = torch.load(path)
    stages = [width * 2**i for i in range(4)]
    torch.manual_seed(seed)
    state = FPN(stages, channels, 4, norm_cfg=NORM).state_dict()
    state = {
        name: value + 3 if name.endswith("tracked") else torch.rand_like(value) + 0.01
        for name, value in state.items()
    }
    for name, value in state.items():
        content["state_dict"][f"terms.roi.fpn.{name}"] = value
        content["state_dict"][f"target.fpn.{name}"] = value + 1
    torch.save(content, path)
    return state


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("ccop") / "epoch_1.pth"
    return path, pretrained(path)


def detector(path, width=16, channels=64, name=CONFIG, init=True, **chosen):
    tiny = dict(checkpoint=str(path), depth=18, base_channels=width)
    tiny |= dict(fpn_channels=channels, pretrained_neck=True, **chosen)
    cfg = load_config(ROOT / "transfer" / name, tiny)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    if init:
        model.init_weights()
    return model


class Before(Hook):
    """Takes the state of neck and backbone when training begins."""

    priority = "LOWEST"

    def before_train(self, runner):
        model = runner.model
        self.neck = {n: v.clone() for n, v in model.neck.state_dict().items()}
        self.backbone = fingerprint(model.backbone)


def test_every_tensor_arrives_by_the_runner(source, demo, tmp_path):
    path, state = source
    chosen = options(CONFIG, demo, (path, 16, None)) | dict(pretrained_neck=True)
    runner = build_runner(
        prepare(load_config(ROOT / "transfer" / CONFIG, chosen), str(tmp_path))
    )
    before = Before()
    runner.register_hook(before)
    runner.train()  # initialises; the hooks verify; one step
    assert before.neck.keys() == state.keys()
    for name, value in state.items():
        one, other = ({name: x} for x in (before.neck[name], value))
        assert fingerprint(one) == fingerprint(other), name
    taken = handovers(runner.model)
    assert taken["neck"].fingerprint == fingerprint(state)
    assert taken["backbone"].fingerprint == before.backbone
    assert taken["neck"].prefix == "terms.roi.fpn."
    assert taken["neck"].line().startswith(f"Neck from {path}")
    assert fingerprint(runner.model.neck) != fingerprint(state)  # it is trained


def test_the_average_of_the_target_arrives_too(source):
    path, state = source
    model = detector(path, encoder="key")
    averaged = {name: value + 1 for name, value in state.items()}
    assert fingerprint(model.neck) == fingerprint(averaged)


def test_without_the_option_or_a_file_it_starts_at_random(source):
    assert set(handovers(detector(source[0], init=True))) == {"backbone", "neck"}
    cfg = load_config(ROOT / "transfer" / CONFIG, dict(checkpoint=str(source[0])))
    assert "init_cfg" not in cfg.model.neck
    cfg = load_config(
        ROOT / "transfer" / CONFIG, dict(checkpoint=None, pretrained_neck=True)
    )
    assert "init_cfg" not in cfg.model.neck


def test_what_does_not_fit_is_refused_and_nothing_is_written(source, tmp_path):
    plain = tmp_path / "moco.pth"
    source_checkpoint(plain)
    with pytest.raises(CheckpointFileError, match=r"no neck with tensors such as"):
        detector(plain)
    with pytest.raises(CheckpointFileError, match="FPN cannot take its weights"):
        detector(source[0], channels=32)
    with pytest.raises(CheckpointFileError, match="FPN cannot take its weights"):
        detector(source[0], name="detection/retinanet_r50_fpn_coco_1x.py")
    part = tmp_path / "part.pth"
    pretrained(part)
    content = torch.load(part)
    del content["state_dict"]["terms.roi.fpn.lateral_convs.2.bn.running_var"]
    torch.save(content, part)
    neck = detector(source[0], init=False).neck
    before = fingerprint(neck)
    with pytest.raises(CheckpointFileError, match=r"1 missing"):
        PretrainedNeck(str(part))(neck)
    content["state_dict"]["terms.roi.fpn.lateral_convs.2.bn.running_var"] = -torch.ones(
        64
    )
    torch.save(content, part)
    with pytest.raises(CheckpointFileError, match=r"negative|variance"):
        PretrainedNeck(str(part))(neck)
    assert fingerprint(neck) == before


class Told:
    """As much of a runner as the hook asks for."""

    def __init__(self, model):
        self.model, self.cfg, self.logger = model, {}, self
        self.info = self.warning = lambda text: None


def test_the_hook_refuses_another_backbone_or_a_changed_neck(source, tmp_path):
    model = detector(source[0])
    HandoverHook().verify(Told(model))
    other = tmp_path / "other.pth"
    pretrained(other, seed=1)
    PretrainedNeck(str(other))(model.neck)
    with pytest.raises(ConfigError, match=r"The neck comes from .*other.pth, but the"):
        HandoverHook().verify(Told(model))
    PretrainedNeck(str(source[0]))(model.neck)
    with torch.no_grad():
        model.neck.fpn_convs[3].conv.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(CheckpointFileError, match=r"neck took from .* were changed"):
        HandoverHook().verify(Told(model))


def test_a_neck_is_exported_and_read_back(source, tmp_path):
    path, state = source
    written = export_backbone(
        path, tmp_path / "ccop", ("mm", "safetensors"), part="neck"
    )
    names = {p.name for p in written.values()}
    assert names == {"ccop_neck_mm.pth", "ccop_neck.safetensors"}
    for file in written.values():
        neck = FPN([16, 32, 64, 128], 64, 5, norm_cfg=NORM)
        PretrainedNeck(str(file))(neck)
        assert fingerprint(neck) == fingerprint(state)
    with pytest.raises(UserError, match="A neck has no layout timm"):
        export_backbone(path, tmp_path / "x", ("mm", "timm"), part="neck")
    plain = tmp_path / "moco.pth"
    source_checkpoint(plain)
    with pytest.raises(CheckpointFileError, match="holds no neck"):
        export_backbone(plain, tmp_path / "x", ("mm",), part="neck")
