"""Every source layout arrives completely; everything else is refused with its cause."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from mmengine.runner import save_checkpoint
from mmengine.utils import digit_version
from safetensors.torch import save_file

from mmssl_ext.engine.weights.files import Weights, read_tensors
from mmssl_ext.engine.weights.report import compare
from mmssl_ext.errors import CheckpointFileError, ConfigError
from mmssl_ext.transfer import HandoverHook, fingerprint, ops
from mmssl_ext.transfer.export import to_detectron2
from mmssl_ext.transfer.handover import find_prefix, handovers
from tests.models.common import ALGORITHMS, MOMENTUM_ALGORITHMS, build

from .support import backbone_state, source_checkpoint

ops.install()
import mmdet.models  # noqa: E402
import mmpretrain.models  # noqa: E402
import mmseg.models  # noqa: E402

LIBRARIES = {"mmdet": mmdet, "mmseg": mmseg, "mmpretrain": mmpretrain}


def backbone(path, library="mmdet", depth=18, kind="ResNet", init=None, **options):
    """A library's backbone that names a checkpoint, not yet initialised."""
    init_cfg = dict(type="mmssl_ext.PretrainedBackbone", checkpoint=str(path))
    init_default_scope(library)
    width = dict(stem_channels=16, base_channels=16)
    cls = getattr(LIBRARIES[library].models, kind)
    return cls(depth=depth, init_cfg=init_cfg | (init or {}), **(width | options))


def initialised(path, *args, **options):
    model = backbone(path, *args, **options)
    model.init_weights()
    return model


def assert_holds(model, state):
    filled = model.state_dict()
    assert filled.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(filled[name], value), name


# The layouts: name of a file and its content, from the state that it must bring.


def below(prefix, state, plus=0):
    """The tensors under a prefix; those of a target network differ by 1."""
    return {f"{prefix}{n}": v + plus if plus else v for n, v in state.items()}


def official_moco(state):
    """As main_moco.py of the MoCo repository saves, in the format before torch 1.6."""
    state = state | {"fc.0.weight": torch.ones(2, 2), "fc.2.weight": torch.ones(2, 2)}
    full = below("module.encoder_q.", state) | below("module.encoder_k.", state, 1)
    full["module.queue"] = torch.zeros(4, 8)
    return {"epoch": 200, "arch": "resnet18", "state_dict": full, "optimizer": {}}


def mmpretrain_run(state):
    """A whole checkpoint of mmengine's MoCo, with the log's histories in it."""
    full = below("backbone.", state) | below("encoder_k.module.0.", state)
    full |= {"neck.fc0.weight": torch.ones(2, 2), "queue": torch.zeros(4, 8)}
    hub = MessageHub("handover_test")
    hub.update_scalar("train/loss", 1.5)
    content = dict(state_dict=full, message_hub=hub.state_dict())
    return content | dict(meta=dict(epoch=1))


def detectron2_detector(state):
    """Its backbone stands below a prefix, as in the checkpoint of a detector."""
    names = below("backbone.bottom_up.", to_detectron2(state))
    names["backbone.fpn_lateral2.weight"] = torch.ones(2, 2, 1, 1)
    return {"model": names, "iteration": 9}


def detectron2_pickle(state):
    """Its own format of weights: arrays in a pickle that torch did not write."""
    arrays = {n: v.numpy() for n, v in to_detectron2(state).items()}
    return {"model": arrays, "__author__": "MOCO", "matching_heuristics": True}


def dino(state):
    """Student and teacher side by side in one file, as DINO's training writes it."""
    student, teacher = below("module.backbone.", state), below("backbone.", state, 1)
    beside = {"epoch": 3, "args": {"lr": 1}, "optimizer": {"state": {0: torch.ones(2)}}}
    return {"student": student, "teacher": teacher, **beside}


def lightly(state):
    """The children of torchvision's ResNet, numbered by an nn.Sequential."""
    numbers = {"conv1": 0, "bn1": 1, **{f"layer{i}": i + 3 for i in range(1, 5)}}
    parts = [(*name.partition("."), value) for name, value in state.items()]
    state = {f"{numbers[child]}.{rest}": value for child, _, rest, value in parts}
    full = below("backbone.", state) | below("backbone_momentum.", state, 1)
    full["projection_head.layers.0.weight"] = torch.ones(2, 2)
    return {"state_dict": full, "epoch": 1, "hyper_parameters": {"lr": 1}}


SOURCES = {
    "moco.pth.tar": official_moco,
    "epoch_1.pth": mmpretrain_run,
    "published.pth": lambda state: {"state_dict": below("backbone.", state)},
    "timm.safetensors": lambda state: state | {"fc.weight": torch.ones(2, 2)},
    "d2.pth": lambda state: {"model": to_detectron2(state)},
    "model_final.pth": detectron2_detector,
    "R-18.pkl": detectron2_pickle,
    "ddp.pth": lambda state: below("module.backbone.", state),
    "dino.pth": dino,
    "lightly.ckpt": lightly,
    "plain.pth": lambda state: {
        "model_state_dict": below("net.", state),
        "optimizer_state_dict": {"state": {}},
    },
}


def written(path):
    """Write a file of the layout that its name stands for; the path."""
    content = SOURCES[path.name](backbone_state())
    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    elif path.name == "epoch_1.pth":
        if digit_version(torch.__version__) < digit_version("2.6"):
            pytest.skip("torch below 2.6 cannot read mmengine's histories as data")
        save_checkpoint(content, str(path))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=path.suffix != ".tar")
    return path


@pytest.mark.parametrize("name", SOURCES)
def test_every_layout_arrives_whole(tmp_path, name):
    state = backbone_state()
    path = written(tmp_path / name)
    model = initialised(path)
    assert_holds(model, state)
    (found,) = handovers(model).values()
    assert found.line().startswith(
        f"Backbone from {path} (sha256 {found.sha256[:12]}), prefix {found.prefix!r}: "
        "120 of 120 tensors matched (100.0 %), 0 missing"
    )
    assert model.handover.report.coverage == 1
    assert model.handover.fingerprint == fingerprint(state)


class Part(BaseModule):
    """A part that would start at zero."""

    def __init__(self):
        super().__init__(init_cfg=dict(type="Constant", layer="Conv2d", val=0.0))
        self.conv = torch.nn.Conv2d(3, 4, 3)


class Whole(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.first, self.new = Part(), Part()


def test_initialisers_of_the_parts_come_before(tmp_path):
    state = Whole().state_dict()
    full = {f"backbone.{n}": v for n, v in state.items() if n.startswith("first")}
    torch.save({"state_dict": full}, tmp_path / "a.pth")
    init = dict(checkpoint=str(tmp_path / "a.pth"), absent=["new"])
    model = Whole(init_cfg=dict(type="mmssl_ext.PretrainedBackbone", **init))
    model.init_weights()
    assert torch.equal(model.first.conv.weight, state["first.conv.weight"])
    assert not model.new.conv.weight.any()


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("moco.pth.tar", "module.encoder_k."),
        ("epoch_1.pth", "encoder_k.module.0."),
        ("dino.pth", "teacher.backbone."),
        ("lightly.ckpt", "backbone_momentum."),
    ],
)
def test_the_key_encoder_by_choice(tmp_path, name, prefix):
    model = initialised(written(tmp_path / name), init=dict(encoder="key"))
    assert model.handover.prefix == prefix
    if name != "epoch_1.pth":
        assert torch.equal(model.conv1.weight, backbone_state()["conv1.weight"] + 1)
    tensors = read_tensors(tmp_path / name)
    assert_holds(model, {n: tensors[prefix + n] for n in model.state_dict()})


def test_a_source_without_a_key_encoder_says_so(tmp_path):
    path = written(tmp_path / "published.pth")
    refused(path, r"no key encoder.*'backbone\.'", init=dict(encoder="key"))


def save(path, state):
    torch.save({"state_dict": below("backbone.", state)}, path)


def refused(path, match, *args, **options):
    """The model refuses with the cause and keeps every tensor that it had."""
    model = backbone(path, *args, **options)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(CheckpointFileError, match=f"(?s){match}") as error:
        model.init_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_wrong_prefix_names_the_likely_one(tmp_path):
    source_checkpoint(tmp_path / "a.pth")
    likely = r"0 of 120 tensors matched.*likely prefix is 'backbone\.'"
    text = refused(tmp_path / "a.pth", likely, init=dict(prefix="encoder."))
    assert "120 missing in the file: conv1.weight, bn1.weight" in text


@pytest.mark.parametrize(("source", "target"), [(50, 18), (18, 50), (34, 18)])
def test_another_depth(tmp_path, source, target):
    save(tmp_path / "a.pth", backbone_state(source))  # 34 has all tensors of 18
    cause = f"model is a ResNet-{target} .*holds a ResNet-{source}"
    text = refused(tmp_path / "a.pth", cause, depth=target)
    assert source != 50 or "(blocks 3-4-6-3" in text


def test_another_width(tmp_path):
    save(tmp_path / "a.pth", backbone_state(18, 8))
    shape = r"conv1.weight \(\(8, 3, 7, 7\) in the file, \(16, 3"
    text = refused(tmp_path / "a.pth", shape)
    assert "width of 16 in bn1.weight, the file holds a width of 8 in bn1." in text
    assert "set base_channels." in text


def test_another_kind_of_bottleneck(tmp_path):
    state = torchvision.models.resnext50_32x4d().state_dict()
    torch.save(state, tmp_path / "a.pth")
    width = dict(base_channels=64, stem_channels=64)
    text = refused(tmp_path / "a.pth", "one is a ResNeXt", depth=50, **width)
    assert "set base_channels" not in text


def test_a_pickle_of_objects_does_not_run(tmp_path):
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": Path("x")}}))
    refused(path, "it names pathlib.*which could run")
    path.write_bytes(pickle.dumps({"model": {}})[:-5])
    refused(path, "it is damaged.*Copy it again")


def test_a_teacher_alone_is_named(tmp_path):
    teacher = below("backbone.", backbone_state())
    torch.save({"teacher": teacher, "epoch": 3}, tmp_path / "a.pth")
    refused(
        tmp_path / "a.pth",
        r"no query encoder .*holds a momentum encoder, target network or teacher under "
        r"'teacher\.backbone\.': set encoder='key'",
    )
    initialised(tmp_path / "a.pth", init=dict(encoder="key"))


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "none.pth", "does not exist")
    refused(tmp_path, "is a folder. Give the path of a .pth file")
    url = "https://example.org/a.pth"
    refused(url, f"Download {url} first and give the path of the file")


@pytest.mark.parametrize("size", [100, 100_000])
def test_truncated_bytes(tmp_path, size):
    source_checkpoint(tmp_path / "a.pth")
    data = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(data[:size])
    refused(tmp_path / "a.pth", "truncated or damaged")
    save_file(backbone_state(), tmp_path / "b.safetensors")
    data = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(data[:size])
    refused(tmp_path / "b.safetensors", "damaged")


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"deep_stem": True}, "deep stem of three 3x3.*stem of 7x7: set deep_stem"),
        (
            {"avg_down": True},
            r"mean \(ResNetV1d\) that down-samples.*a stride.*avg_down",
        ),
        ({"style": "caffe"}, "caffe style.*set style='pytorch'"),
    ],
)
def test_other_stems_and_styles(tmp_path, options, cause):
    source_checkpoint(tmp_path / "a.pth", 50)
    refused(tmp_path / "a.pth", cause, "mmseg", 50, **options)


def test_two_networks_that_fit_must_be_told_apart():
    one = Weights({"a.w": torch.ones(2), "b.w": torch.ones(2)}, {}, "file")
    assert find_prefix(["w"], one, "query") == "a."
    one.tensors["b.w"] = torch.zeros(2)
    with pytest.raises(CheckpointFileError, match=r"'a\.' and 'b\.'.*prefix='a\.'"):
        find_prefix(["w"], one, "query")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_encoder_of_every_method_is_found(name):
    """Whatever networks a method keeps besides: teachers, earlier states, targets."""
    model = build(name)
    if "temporal" in model.terms:
        model.terms.temporal.take(model)
    state = {
        key: value + 1 if value.is_floating_point() else value  # no two are the same
        for key, value in model.state_dict().items()
        if not key.startswith("backbone.")
    }
    own = model.backbone.state_dict()
    state |= {f"backbone.{key}": value for key, value in own.items()}
    if name == "TKC":
        assert any(key.startswith("terms.temporal.snap") for key in state)
    weights = Weights(state, {}, "file")
    assert find_prefix(own, weights, "query") == "backbone."
    if name in MOMENTUM_ALGORITHMS:
        assert find_prefix(own, weights, "key") == "target.backbone."


def test_fingerprint_sees_every_kind_of_change():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    found = {
        fingerprint(state),
        fingerprint(state | {"a": torch.tensor([0.0, 1, 2, 3.0000002])}),
        fingerprint(state | {"a": torch.arange(4.0).view(2, 2)}),
        fingerprint(state | {"a": torch.arange(4.0).double()}),
        fingerprint(state | {"b": torch.tensor(4)}),
        fingerprint({"c": state["a"], "b": state["b"]}),
    }
    assert len(found) == 6
    assert fingerprint(dict(reversed(state.items()))) == fingerprint(state)


def verified(model, caplog, **preprocessor):
    """What the hook says before a training; R18 has what it checks."""
    logger = logging.getLogger("handover_test")
    logger.setLevel("INFO")
    model.data_preprocessor = SimpleNamespace(**preprocessor)
    runner = SimpleNamespace(model=model, iter=0, logger=logger)
    runner._load_from = None
    with caplog.at_level("INFO", "handover_test"):
        HandoverHook().before_train(runner)
    return caplog.text


def test_the_hook_refuses_a_module_that_never_asked(tmp_path, caplog):
    """mmdet's Swin reads the checkpoint of its init_cfg itself, what matches of it."""
    source_checkpoint(tmp_path / "a.pth")
    model = torch.nn.Module()
    model.backbone = mmdet.models.SwinTransformer(
        embed_dims=8, depths=(1, 1), num_heads=(1, 1), out_indices=(0, 1),
        strides=(4, 2), init_cfg=backbone(tmp_path / "a.pth").init_cfg,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="backbone names PretrainedBackbone in its"):
        verified(model, caplog)


@pytest.mark.parametrize(
    ("mean", "swaps", "warned"),
    [
        ((123.7, 116.3, 103.5), True, False),
        ((123.7, 116.3, 103.5), False, True),
        ((103.5, 116.3, 123.7), True, True),
    ],
)
def test_the_hook_warns_of_bgr(tmp_path, caplog, mean, swaps, warned):
    source_checkpoint(tmp_path / "a.pth")
    facts = dict(mean=torch.tensor(mean).view(3, 1, 1), _channel_conversion=swaps)
    said = verified(initialised(tmp_path / "a.pth"), caplog, **facts)
    assert ("seems to deliver BGR" in said) == warned


def test_the_hook_says_that_a_model_starts_at_random(caplog):
    assert "starts at random" in verified(mmdet.models.ResNet(18), caplog)


def test_counters_may_be_absent_from_a_backbone_but_not_from_a_whole_model():
    state = backbone_state()
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    assert compare(state, old).complete
    assert not compare(state, old, whole=True).complete
