"""What leaves no trace in the tensors is recorded, compared, and said or refused."""

import logging
import re
import types

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import init_default_scope
from mmpretrain.models import ResNet, ResNet_CIFAR

from mmssl_ext.engine.checkpoint.read import load_checkpoint_file
from mmssl_ext.engine.weights import strict
from mmssl_ext.engine.weights.files import read_weights
from mmssl_ext.engine.weights.record import (
    describe_backbone,
    describe_input,
    describe_weights,
    find_record,
    input_text,
    structure_text,
)
from mmssl_ext.errors import CheckpointFileError, ConfigError, UserError
from mmssl_ext.registry import MODELS
from mmssl_ext.run.launch import load_config
from mmssl_ext.transfer import HandoverHook, PretrainedBackbone, handover, ops
from mmssl_ext.transfer.export import export_backbone
from tests.harness import config, make_runner
from tests.transfer.support import backbone_state

ops.install()
import mmdet.models  # noqa: E402
import mmseg.models  # noqa: E402

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
WIDTH = dict(stem_channels=16, base_channels=16)
STRIDED = {"backbone": {"strides": [1, 2, 2, 1]}, "input": {}}
OTHERWISE = "strides (1, 2, 2, 1) in the file, (1, 2, 2, 2) here"


def weights(path, record=None, **meta):
    state = {f"backbone.{n}": v for n, v in backbone_state().items()}
    meta |= {} if record is None else {"weights": record}
    torch.save({"state_dict": state, "meta": meta}, path)
    return path


def test_a_checkpoint_records_what_its_weights_are(images, tmp_path):
    runner = make_runner(config(images, tmp_path))
    runner.train()
    content = load_checkpoint_file(tmp_path / "epoch_1.pth")
    record = content["meta"]["weights"]
    assert record["input"] == {"mean": MEAN, "std": STD, "channel_order": "RGB"}
    assert record["backbone"]["type"] == type(runner.model.backbone).__name__
    assert find_record(content["meta"]) == record
    assert record["backbone"] == describe_backbone(runner.model.backbone)


def test_facts_of_a_resnet():
    found = describe_backbone(ResNet(18, strides=(1, 2, 2, 1), **WIDTH))
    assert found == {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 16,
        "strides": [1, 2, 2, 1],
        "dilations": [1, 1, 1, 1],
        "stem": "7x7, stride 2, max pooling",
    }
    stem = describe_backbone(ResNet_CIFAR(18))["stem"]
    assert stem == "3x3, stride 1, no pooling"
    assert describe_backbone(mmdet.models.ResNet(50, style="caffe"))["style"] == "caffe"


CFG = """
import os
os.mkdir({sign!r})
data_root = 'x'
model = dict(
    type='CO2',
    backbone=dict(type='mmpretrain.ResNet', depth=18, strides=(1, 2, 2, 1)),
    data_preprocessor=dict(
        type='MultiViewPreprocessor', mean=[0.0, 0.0, 0.0], std=[255, 255, 255]))
"""


def test_a_config_in_the_file_tells_it_and_is_not_run(tmp_path):
    sign = tmp_path / "it_ran"
    record = find_record({"cfg": CFG.format(sign=str(sign))})
    assert record["backbone"]["strides"] == [1, 2, 2, 1]
    facts = {"mean": [0.0] * 3, "std": [255] * 3, "channel_order": "RGB"}
    assert record["input"] == facts
    assert not sign.exists()


def test_a_config_of_mmpretrains():
    images = dict(type="SelfSupDataPreprocessor", mean=MEAN, std=STD, to_rgb=True)
    model = dict(type="MoCo", backbone=dict(type="ResNet", depth=50))
    text = Config(dict(data_preprocessor=images, model=model)).pretty_text
    assert find_record({"cfg": text}) == {
        "backbone": {"type": "ResNet", "strides": [1, 2, 2, 2]},
        "input": {"mean": MEAN, "std": STD, "channel_order": "RGB"},
    }


@pytest.mark.parametrize(
    "meta",
    [None, "text", {"cfg": "model = ("}, {"cfg": "model = f(1)"}, {"weights": 3},
     {"cfg": None}, {"weights": {"backbone": 5}},
     {"weights": {"backbone": {"strides": "abc", "stem": 3},
                  "input": {"mean": "x", "std": [None, 1, 2], "channel_order": 1}}}],
)  # fmt: skip
def test_old_files_have_no_record_and_are_let_pass(meta):
    record = find_record(meta)
    assert record == {"backbone": {}, "input": {}}
    model = ResNet(18, strides=(1, 2, 2, 1), **WIDTH)
    assert structure_text(record, model, "file") == ""
    assert input_text(record, ImgDataPreprocessor(MEAN, STD), "file") == ""


def recorded(**options):
    return {"backbone": describe_backbone(ResNet(50, **options)), "input": {}}


D8 = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
C4 = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))


@pytest.mark.parametrize(("before", "now"), [({}, D8), (D8, {}), ({}, C4)])
def test_the_libraries_backbones_are_alike(before, now):
    """Dilation in place of a stride is the consumer's choice."""
    model = mmdet.models.ResNet(50, **now)
    assert structure_text(recorded(**before), model, "file") == ""
    text = structure_text(recorded(), ResNet(50, strides=(1, 2, 1, 1)), "file")
    assert "strides (1, 2, 2, 2) in the file, (1, 2, 1, 1) here." in text


@pytest.mark.parametrize("source", ["record", "config"])
def test_a_transfer_says_that_strides_differ(tmp_path, monkeypatch, source):
    texts = []
    monkeypatch.setattr(handover, "print_log", lambda text, **_: texts.append(text))
    told = {"record": STRIDED} if source == "record" else {"cfg": CFG.format(sign="x")}
    path = weights(tmp_path / "a.pth", **told)
    loaded(path)
    assert OTHERWISE in texts[1]
    PretrainedBackbone(str(path))(ResNet(18, strides=(1, 2, 2, 1), **WIDTH))
    assert len(texts) == 3  # one line, as always


def verified(event, model, preprocessor, caplog, **runner):
    """Call the hook; what it has warned of."""
    whole, logger = torch.nn.Module(), logging.getLogger("record_test")
    whole.backbone, whole.data_preprocessor = model, preprocessor
    facts = dict(iter=0, _load_from=None, _train_loop="loop", logger=logger, **runner)
    if event == "before_test":
        facts["_train_loop"] = None
    with caplog.at_level("WARNING", "record_test"):
        caplog.clear()
        getattr(HandoverHook(), event)(types.SimpleNamespace(model=whole, **facts))
    return caplog.text


def test_a_style_that_the_file_records_counts(tmp_path):
    state = {f"backbone.{n}": v for n, v in backbone_state(50).items()}
    meta = {"weights": {"backbone": {"style": "caffe"}, "input": {}}}
    torch.save({"state_dict": state, "meta": meta}, tmp_path / "a.pth")
    load = PretrainedBackbone(str(tmp_path / "a.pth"))
    load(mmdet.models.ResNet(50, style="caffe", **WIDTH))
    with pytest.raises(CheckpointFileError, match="set style='caffe' in the model"):
        load(mmdet.models.ResNet(50, style="pytorch", **WIDTH))


def test_a_classifier_is_not_measured_on_other_features(tmp_path, caplog):
    model = loaded(weights(tmp_path / "a.pth", STRIDED))
    plain = types.SimpleNamespace()
    verified("before_train", model, plain, caplog)
    frozen = pytest.raises(ConfigError, match=r"backbone is frozen.*\(1, 2, 2, 1\) in")
    with frozen:
        verified("before_test", model, plain, caplog)
    model.requires_grad_(False)
    with frozen:
        verified("before_train", model, plain, caplog)


def loaded(path):
    model = ResNet(18, **WIDTH)
    PretrainedBackbone(str(path))(model)
    return model


def preprocessor(mean=MEAN, std=STD, swaps=True):
    return types.SimpleNamespace(
        mean=torch.tensor(mean).view(3, 1, 1),
        std=torch.tensor(std).view(3, 1, 1),
        _channel_conversion=swaps,
    )


RGB = {"mean": MEAN, "std": STD, "channel_order": "RGB"}
BGR = {"mean": MEAN[::-1], "std": STD[::-1], "channel_order": "BGR"}


@pytest.mark.parametrize(
    ("record", "now", "text"),
    [
        (RGB, {}, ""),
        (RGB, {"mean": [0.0] * 3}, f"mean {MEAN} in the file, [0, 0, 0] here"),
        (RGB, {"std": [1.0] * 3}, f"std {STD} in the file, [1, 1, 1] here"),
        (RGB, {"swaps": False}, "channels RGB in the file, BGR here"),
        (BGR, {"mean": MEAN[::-1], "std": STD[::-1], "swaps": False}, ""),
    ],
)
def test_images_prepared_otherwise_are_warned_of(tmp_path, caplog, record, now, text):
    path = weights(tmp_path / "a.pth", {"backbone": {}, "input": record})
    said = verified("before_train", loaded(path), preprocessor(**now), caplog)
    assert text in said if text else said == ""
    assert ("model.data_preprocessor" in said) == bool(text)


def test_images_that_nothing_normalises_are_warned_of(tmp_path, caplog):
    model = loaded(weights(tmp_path / "a.pth", {"backbone": {}, "input": RGB}))
    images, said = ImgDataPreprocessor(), []
    for pipeline in ([dict(type="Normalize", mean=MEAN, std=STD)], []):
        cfg = {"train_dataloader": {"dataset": {"pipeline": pipeline}}}
        said.append(verified("before_train", model, images, caplog, cfg=cfg))
    assert said[0] == "" and "neither model.data_preprocessor has a mean" in said[1]


def test_one_mean_stands_for_three_channels():
    facts = describe_input(ImgDataPreprocessor([127.5], [127.5]))
    assert (facts["mean"], facts["std"]) == ([127.5] * 3, [127.5] * 3)


@pytest.mark.parametrize(
    ("scope", "library", "name"),
    [
        ("mmdet", mmdet, "detection/retinanet_r50_fpn_coco_1x"),
        ("mmseg", mmseg, "segmentation/fcn_r50_voc12aug"),
    ],
)
def test_the_transfer_configs_are_alike_with_the_pretraining(scope, library, name):
    init_default_scope("mmssl_ext")
    cfg = load_config("configs/co2/co2_r50_imagenet.py", {"queue_len": 64})
    record = describe_weights(MODELS.build(cfg.model))
    cfg = load_config(f"configs/transfer/{name}.py", {"checkpoint": None})
    init_default_scope(scope)
    build = library.registry.MODELS.build
    assert structure_text(record, build(cfg.model.backbone), name) == ""
    assert input_text(record, build(cfg.model.data_preprocessor), name) == ""


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"strides": [1, 2, 2, 1]}, "strides (1, 2, 2, 1)"),
        ({"dilations": [1, 1, 2, 4]}, "dilations"),
        ({"style": "caffe"}, "bottlenecks of caffe style"),
        ({"stem": "3x3, stride 1, no pooling"}, "a stem of 3x3, stride 1, no pooling"),
    ],
)
def test_no_export_to_a_library_without_that_structure(tmp_path, facts, text):
    path = weights(tmp_path / "a.pth", {"backbone": facts, "input": {}})
    for layout in ("torchvision", "timm", "detectron2"):
        said = re.escape(f"{text}; in the ResNet of {layout}")
        with pytest.raises(UserError, match=said):
            export_backbone(path, tmp_path / "out", ["mm", layout])
    assert list(tmp_path.iterdir()) == [path]


def test_a_stem_is_known_by_its_tensors_too(tmp_path):
    state = backbone_state() | {"conv1.weight": torch.rand(16, 3, 3, 3)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(UserError, match="with a stem of 3x3; in the ResNet of timm"):
        export_backbone(tmp_path / "a.pth", tmp_path / "out", ["timm"])


@pytest.mark.parametrize("layout", ["mm", "safetensors", "detectron2"])
def test_an_export_takes_the_record_along(tmp_path, layout):
    strides = [1, 2, 2, 2] if layout == "detectron2" else [1, 2, 2, 1]
    record = {"backbone": {"strides": strides}, "input": {"mean": MEAN}}
    path = weights(tmp_path / "a.pth", record)
    file = export_backbone(path, tmp_path / "out", [layout])[layout]
    assert read_weights(file).record == record


def test_an_evaluation_refuses_other_strides_and_warns_of_the_images(
    tmp_path, monkeypatch
):
    texts = []
    monkeypatch.setattr(strict, "print_log", lambda text, *_: texts.append(text))
    model = torch.nn.Module()
    model.backbone, model.data_preprocessor = ResNet(18, **WIDTH), preprocessor()
    path = weights(tmp_path / "a.pth", STRIDED)
    with pytest.raises(CheckpointFileError, match=r"\(1, 2, 2, 1\) in the file"):
        strict.load_strictly(model, path)
    record = {"backbone": {}, "input": {"mean": [1.0, 2.0, 3.0]}}
    strict.load_strictly(model, weights(path, record))
    assert f"mean [1, 2, 3] in the file, {MEAN} here" in texts[0]
