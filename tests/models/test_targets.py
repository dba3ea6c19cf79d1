"""What online features are compared with."""

import copy
import re
import shutil

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import init_default_scope
from torch.nn.functional import normalize

from mmssl_ext.registry import MODELS
from tests.harness import config, log_text, make_runner, write_images

from .bases import (
    DIM,
    MLP,
    PREDICTOR,
    build,
    losses,
    method,
    sgd,
    train,
    views,
)
from .common import BACKBONE, assert_same_gradients, double
from .loops import mean_cosine

BOTH = ((0, 1), (1, 0))


def regression(target, **changes):
    """A method with a predictor and this target."""
    compare = dict(type="Regression", predictor=PREDICTOR)
    config = dict(neck=MLP, compare=compare, target=target, pairs=BOTH)
    return method("Method", **(config | changes))


# The network itself


@pytest.mark.parametrize("kind", ["OwnTarget", "StoppedTarget"])
def test_the_network_itself(kind):
    """The target is the projection, not the prediction; with gradient or without."""
    model = double(build(regression(dict(type=kind), reduce="sum")))
    twin, inputs = copy.deepcopy(model), views(5, dtype=torch.double)
    z = [twin.neck(twin.backbone(x))[0] for x in inputs]
    p = [twin.compare.predictor([x])[0] for x in z]
    t = [x.detach() if kind == "StoppedTarget" else x for x in z]
    wanted = sum(2 - 2 * mean_cosine(p[a], t[b]) for a, b in BOTH)
    wanted.backward()
    found = losses(model, inputs)["loss_instance"]
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    assert_same_gradients(model, twin, 1e-8, 1e-12)
    key = model.last_embeddings["key"]
    torch.testing.assert_close(key, normalize(z[1]).detach())
    assert not any("target" in name for name in model.state_dict())


# The momentum network


@pytest.mark.parametrize(
    ("momentum", "kept"),
    [
        (0.9, [0.9, 0.9, 0.9]),
        (dict(kind="linear", start=0.5, end=1), [0.625, 0.75, 0.875]),
        (dict(kind="cosine", start=0.5, end=1), [0.573223, 0.75, 0.926777]),
    ],
    ids=["constant", "linear", "cosine"],
)
def test_momentum_over_a_training(momentum, kept):
    model = build(method("BYOL", momentum=momentum))
    model.clock.total, optimizer = 4, sgd(model, 0.5)
    expected = {n: p.clone() for n, p in model.backbone.named_parameters()}
    for t in range(4):
        for name, parameter in model.backbone.named_parameters():
            if t:
                m, new = kept[t - 1], parameter.detach()
                expected[name] = m * expected[name] + (1 - m) * new
        train(model, views(4, seed=t, size=32), optimizer)
        for name, parameter in model.target.backbone.named_parameters():
            torch.testing.assert_close(parameter, expected[name], rtol=1e-4, atol=1e-5)


def test_a_schedule_needs_the_length_of_the_training():
    """Said in the first step, not in the second."""
    model = build(method("BYOL", momentum=None))
    for begin in (lambda: losses(model, views(4, size=32)), lambda: model.start(None)):
        with pytest.raises(ValueError, match=r"^momentum depends on how many"):
            begin()
    model.clock.total = 10
    model.start(None)
    losses(model, views(4, size=32))


@pytest.mark.parametrize(
    "momentum", [0.001, 0.49, 1.1, dict(kind="cosine", start=0.004, end=1)]
)
def test_the_share_of_the_new_value_is_refused(momentum):
    with pytest.raises(ValueError, match=r"MoCo's value is 0\.999"):
        build(method("BYOL", momentum=momentum))


@pytest.mark.parametrize("momentum", ["0.99", float("nan")])
def test_what_is_no_momentum_is_refused(momentum):
    with pytest.raises(ValueError, match=r"^momentum=.* must be a (finite )?number"):
        build(method("BYOL", momentum=momentum))


# A teacher from a checkpoint

WIDE = BACKBONE | dict(base_channels=16)  # 128 channels


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of a wider network whose embeddings have 24 features."""
    neck = MLP | dict(in_channels=128, out_channels=24)
    predictor = PREDICTOR | dict(in_channels=24, out_channels=24)
    trained = build(method("BYOL", backbone=WIDE, neck=neck, predictor=predictor), 7)
    for seed in range(2):
        train(trained, views(8, seed, 32), sgd(trained))
    path = tmp_path_factory.mktemp("teacher") / "epoch_1.pth"
    torch.save({"state_dict": trained.state_dict(), "meta": {}}, path)
    return path, trained.eval()


def teacher(checkpoint, neck=False, **changes):
    load = dict(type="PretrainedBackbone", checkpoint=str(checkpoint[0]))
    config = dict(type="FrozenTeacher", backbone=WIDE | dict(init_cfg=load))
    if neck:
        sizes = dict(in_channels=128, out_channels=24)
        config["neck"] = MLP | sizes | dict(init_cfg=load | dict(prefix="neck."))
    return config | changes


@pytest.mark.parametrize("neck", [False, True], ids=["pooled", "neck"])
def test_a_teacher(checkpoint, neck):
    dim = 24 if neck else 128
    predictor = PREDICTOR | dict(out_channels=dim)
    compare = dict(type="Regression", predictor=predictor)
    terms = [dict(type="Consistency", temperature=0.1, queue_len=32)]
    target = teacher(checkpoint, neck)
    model = build(regression(target, compare=compare, terms=terms))
    assert model.target.dim == dim and model.dim == DIM
    assert model.terms.consistency.queue.keys.shape == (32, dim)
    assert not any(p.requires_grad for p in model.target.parameters())
    frozen = copy.deepcopy(model.target.state_dict())

    optimizer = sgd(model)
    for seed in range(2):
        inputs = views(6, seed, 32)
        train(model, inputs, optimizer)
    _, trained = checkpoint
    with torch.no_grad():
        maps = trained.backbone(inputs[1])
        wanted = trained.neck(maps)[0] if neck else maps[-1].mean((2, 3))
    found = model.target.features(model, {1: inputs[1]}, {})[1]["embedding"]
    torch.testing.assert_close(found, normalize(wanted))
    assert not model.target.train().training  # neither by itself
    assert not any(m.training for m in model.train().target.modules())
    assert model.backbone.training
    for name, value in model.target.state_dict().items():
        assert torch.equal(value, frozen[name]), name
    assert all(p.grad is None for p in model.target.parameters())
    # The state holds the teacher: it is enough to go on, without the file.
    restored = build(regression(target, compare=compare, terms=terms), 3)
    with torch.no_grad():
        for parameter in restored.target.parameters():
            parameter.zero_()
    restored.load_state_dict(model.state_dict())
    inputs = views(6, 5, 32)
    assert losses(restored, inputs) == losses(model, inputs)


LOAD = dict(type="PretrainedBackbone", checkpoint="weights.pth")


@pytest.mark.parametrize(
    ("target", "changes", "sentence"),
    [
        (
            dict(backbone=WIDE | dict(init_cfg=dict(type="Kaiming", layer="Conv2d"))),
            {},
            "would teach random features; set target.backbone.init_cfg",
        ),
        (
            dict(neck=MLP | dict(in_channels=128)),
            {},
            "The neck of FrozenTeacher would teach random features; set "
            "target.neck.init_cfg=dict(type='PretrainedBackbone', checkpoint=..., "
            "prefix='neck.')",
        ),
        (dict(dim=64), {}, "embedding has 128 features, not target.dim=64; leave"),
        ({}, {}, "predictor returns 16 features, but what it has to predict has 128"),
        (
            {},
            dict(compare=dict(type="QueueSoftmax", length=32)),
            "The neck returns 16 features, but the embeddings of the FrozenTeacher "
            "have 128; set neck.out_channels to 128.",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(target, changes, sentence):
    config = dict(type="FrozenTeacher", backbone=WIDE | dict(init_cfg=LOAD)) | target
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        build(regression(config, **changes))
    assert "\n" not in str(caught.value)


class Maps(BaseModule):
    """A backbone that does not say how many channels it returns: 12."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = torch.nn.Conv2d(3, 12, 3, stride=8)

    def forward(self, x):
        return (self.conv(x),)


def test_a_teacher_of_unknown_size(monkeypatch):
    """It is found by an image of zeros; what is told must be true."""
    init_default_scope("mmssl_ext")
    monkeypatch.setitem(MODELS.module_dict, "Maps", Maps)

    def told(dim):
        backbone = dict(type="Maps", init_cfg=LOAD)
        config = dict(type="FrozenTeacher", backbone=backbone, dim=dim)
        predictor = PREDICTOR | dict(out_channels=dim or 12)
        compare = dict(type="Regression", predictor=predictor)
        return MODELS.build(regression(config, compare=compare)).eval()

    with pytest.raises(ValueError, match=r"has 12 features, not target\.dim=24; leave"):
        told(24)
    for dim in (None, 12):
        method = told(dim)
        assert method.target.dim == 12
        method.check_inputs(views(1, size=32))


def test_a_teacher_that_takes_other_views_is_refused(checkpoint):
    config = teacher(checkpoint)
    config["backbone"] = config["backbone"] | dict(in_channels=1)
    init_default_scope("mmssl_ext")
    predictor = PREDICTOR | dict(out_channels=128)
    compare = dict(type="Regression", predictor=predictor)
    model = MODELS.build(regression(config, compare=compare)).eval()
    with pytest.raises(ValueError, match=r"set backbone.in_channels to 3"):
        model.check_inputs(views(1, size=32))


def test_a_teacher_in_a_run(checkpoint, tmp_path):
    """Monitored though it has a size of its own; resumed with the weights it had."""
    images = write_images(tmp_path / "images")
    collapse = dict(type="CollapseMonitorHook", interval=1)
    cfg = config(images, tmp_path / "run", collapse=collapse)
    file = tmp_path / "teacher.pth"
    shutil.copy(checkpoint[0], file)
    compare = dict(type="Regression", predictor=PREDICTOR | dict(out_channels=24))
    cfg.model = regression(teacher((file,), neck=True), compare=compare)
    runner = make_runner(copy.deepcopy(cfg))
    runner.train()
    taught = runner.model.target.state_dict()
    weight = checkpoint[1].state_dict()["neck.fc0.weight"]
    assert torch.equal(taught["neck.fc0.weight"], weight)
    assert "Embeddings in epoch 1: std ratio" in log_text(runner)
    other = {n: 2 * x for n, x in checkpoint[1].state_dict().items()}
    torch.save({"state_dict": other, "meta": {}}, file)
    cfg.train_cfg.max_epochs = 2
    again = make_runner(copy.deepcopy(cfg), resume=True)
    again.train()
    assert again.epoch == 2
    for name, value in again.model.target.state_dict().items():
        assert torch.equal(value, taught[name]), name
