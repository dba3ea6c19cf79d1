"""BYOL against mmpretrain's, against a loss written in loops, and by hand."""

import copy
import math

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmpretrain.engine.optimizers import LARS

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.layers import unit
from mmssl_ext.registry import MODELS

from ..harness import RunHarness, Watch, assert_same, config, stop_at, write_images
from .common import BACKBONE, views

MLP = dict(
    type="NonLinearNeck",
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
)
NECK = MLP | dict(in_channels=64, hid_channels=32, out_channels=16)
PREDICTOR = NECK | dict(in_channels=16, with_avg_pool=False)
CONFIG = dict(type="BYOL", backbone=BACKBONE, neck=NECK, predictor=PREDICTOR)


def build(**changes):
    """A BYOL of 1/8 width in double precision, whose target moves visibly."""
    init_default_scope("mmssl_ext")
    torch.manual_seed(0)
    model = MODELS.build(CONFIG | dict(momentum=0.9) | changes)
    model._dump_init_info = lambda: None  # a line for every tensor
    model.init_weights()
    return model.double().train()


def images(seed=0):
    return [view.double() for view in views(6, seed)]


def train(model, inputs, optimizer):
    """One step; the sum of the losses."""
    losses = model(inputs, mode="loss")
    loss = sum(value for key, value in losses.items() if "loss" in key)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


# --- the loss


@pytest.fixture(scope="module")
def byol():
    return build()


def loss_of(model, p1, t2, p2, t1):
    """The loss of predictions and targets, M x D, of any length."""
    p1, t2, p2, t1 = (torch.as_tensor(x, dtype=torch.double) for x in (p1, t2, p2, t1))
    online = {0: {"embedding": unit(p1)}, 1: {"embedding": unit(p2)}}
    target = {0: {"embedding": unit(t1)}, 1: {"embedding": unit(t2)}}
    step = Step({}, None, None, online, target, {})
    return model.compare(model, step)["instance"]


def test_loss_by_hand(byol):
    one = loss_of(byol, [[3, 4]], [[1, 0]], [[0, 2]], [[1, 1]])
    assert one.item() == pytest.approx(0.8 + 0.585786, abs=1e-6)
    one_way = build(pairs=((0, 1),))
    first = loss_of(one_way, [[3, 4]], [[1, 0]], [[0, 2]], [[1, 1]])
    assert first.item() == pytest.approx(0.8)
    # Samples of 1.385786 and 0.985786
    two = loss_of(
        byol,
        [[1, 0], [0, 1]],
        [[0.6, 0.8], [0.6, 0.8]],
        [[1, 1], [1, -1]],
        [[1, 0], [1, 0]],
    )
    assert two.item() == pytest.approx(1.185786, abs=1e-6)
    # What has collapsed has no loss; opposite points have all of it.
    point = torch.ones(3, 4)
    assert loss_of(byol, point, point, point, point).item() == pytest.approx(0)
    assert loss_of(byol, point, -point, point, -point).item() == pytest.approx(8)


def test_length_and_order_of_the_views_do_not_count(byol):
    rows = torch.randn(4, 5, 7, dtype=torch.double)
    p1, t2, p2, t1 = rows
    loss = loss_of(byol, p1, t2, p2, t1)
    torch.testing.assert_close(loss_of(byol, 3 * p1, t2 / 7, p2, 5 * t1), loss)
    torch.testing.assert_close(loss_of(byol, p2, t1, p1, t2), loss)
    torch.manual_seed(0)
    wide = torch.randn(4, 4096, 256)
    assert loss_of(byol, *wide).item() == pytest.approx(4, abs=0.02)


def test_gradient_by_hand_and_numerically(byol):
    p = torch.tensor([[3.0, 4.0]], dtype=torch.double, requires_grad=True)
    t = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    byol.compare.pair(unit(p), unit(t)).backward()
    torch.testing.assert_close(p.grad, torch.tensor([[-0.256, 0.192]]).double())
    torch.manual_seed(0)
    p1, p2 = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    t1, t2 = torch.randn(2, 3, 5, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda a, b: loss_of(byol, a, t2, b, t1), (p1, p2))


def test_loss_stays_in_full_precision():
    model = build().float()
    rows = torch.randn(4, 5, 16, requires_grad=True)
    step = Step(
        *({}, None, None),
        {v: {"embedding": unit(rows[v])} for v in (0, 1)},
        {v: {"embedding": unit(rows[2 + v]).detach()} for v in (0, 1)},
        {},
    )
    exact = model.compare(model, step)["instance"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.compare(model, step)["instance"], exact)
        loss = model(views(6), mode="loss")["loss_instance"]
    assert loss.dtype == torch.float and 0 < loss < 8
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.backbone.parameters())


# --- the step


def slow_loss(predictions, targets):
    """Mean of 2 - 2 cos, row by row, in Python's own numbers."""
    total = 0.0
    for p, t in zip(predictions, targets, strict=True):
        dot = sum(a * b for a, b in zip(p, t, strict=True))
        total += 2 - 2 * dot / (p.norm() * t.norm())
    return total / len(predictions)


def test_two_steps_equal_the_definition():
    """Loss, gradients and both networks; tau is that of the second step."""
    model = build(momentum=dict(kind="cosine", start=0.6, end=1.0))
    model.clock.total = 4
    truth, target = copy.deepcopy(model), copy.deepcopy(model)
    optimizers = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1)
        for m in (model, truth)
    ]
    for k in range(2):
        tau = 0.0 if k == 0 else 1 - 0.4 * (math.cos(math.pi * k / 4) + 1) / 2
        inputs = images(k)
        with torch.no_grad():
            for part in ("backbone", "neck"):
                new = getattr(truth, part).parameters()
                for old, p in zip(getattr(target, part).parameters(), new, strict=True):
                    old.copy_(tau * old + (1 - tau) * p)
            t = [target.neck(target.backbone(x))[0] for x in inputs]
        z = [truth.neck(truth.backbone(x))[0] for x in inputs]
        p = [truth.compare.predictor([x])[0] for x in z]
        expected = slow_loss(p[0], t[1]) + slow_loss(p[1], t[0])
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        assert train(model, inputs, optimizers[0]) == pytest.approx(expected.item())
        for name, param in truth.named_parameters():
            if name.startswith("target"):
                continue
            ours = model.get_parameter(name)
            torch.testing.assert_close(ours, param)
            assert param.grad.abs().sum() > 0, name
            torch.testing.assert_close(ours.grad, param.grad)
        for part in ("backbone", "neck"):
            for name, param in getattr(target, part).named_parameters():
                found = model.target.get_parameter(f"{part}.{name}")
                torch.testing.assert_close(found, param)
                assert found.grad is None and not found.requires_grad
        last = model.last_embeddings
        torch.testing.assert_close(last["query"], unit(z[0]).detach())
        torch.testing.assert_close(last["key"], unit(t[1]))


def test_first_target_is_the_network_as_it_was_initialised():
    model = build()
    with torch.no_grad():
        for p in model.parameters():  # as if weights were loaded after the build
            p.add_(0.01)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    train(model, images(), optimizer)
    for name, value in model.target.named_parameters():
        assert torch.equal(value, before[name]), name
        assert not torch.equal(value, model.get_parameter(name))
    assert not any("predictor" in name for name, _ in model.target.named_parameters())


def test_identical_views_and_networks_have_no_loss():
    """Without a predictor, in eval mode."""
    model = build(predictor=None).eval()
    view = images()[0]
    loss = model([view, view], mode="loss")["loss_instance"]
    assert loss.item() == pytest.approx(0, abs=1e-12)


# --- momentum and optimizer


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (0.99, [0.99, 0.991464, 0.995, 0.998536, 1]),
        (0.996, [0.996, 0.996586, 0.998, 0.999414, 1]),
    ],
)
def test_momentum_over_a_training(base, expected):
    model = build(momentum=dict(kind="cosine", start=base, end=1.0))
    model.clock.total = 400
    found = []
    for iteration in (0, 100, 200, 300, 400):
        model.clock.set(iteration)
        found.append(model.target.momentum(model.clock))
    assert found == pytest.approx(expected, abs=1e-6)


def test_momentum_follows_the_run_also_after_a_resume(tmp_path):
    """Three epochs of four iterations, and stopped in the second."""
    images = write_images(tmp_path / "images")
    found = []
    watch = Watch(
        before_train_iter=lambda runner: found.append(
            runner.model.target.momentum(runner.model.clock)
        )
    )

    def run(name):
        hooks = dict(resume=dict(type="ExactResumeHook"))
        cfg = config(images, tmp_path / name, 3, **hooks)
        momentum = dict(kind="cosine", start=0.9, end=1.0)
        cfg.model = CONFIG | dict(momentum=momentum)
        return RunHarness.of(cfg, watch)

    whole, cut = run("whole"), run("cut")
    whole.train()
    taus = [1 - 0.1 * (math.cos(math.pi * k / 12) + 1) / 2 for k in range(12)]
    assert found == pytest.approx(taus)
    cut.train(stop_at(6), stops=True)
    found.clear()
    cut.train(resume=True)
    assert found == pytest.approx(taus[4:])
    assert_same(cut.end(12), whole.end(12))


def test_momentum_unless_told_is_the_papers():
    assert build(momentum=None).target.momentum.start == 0.996
    assert build(momentum=None).target.momentum.end == 1
    with pytest.raises(ValueError, match=r"momentum=0 would keep 0\.0% of the target"):
        build(momentum=0)


def test_target_moves_by_what_is_missing_to_tau():
    model = build(momentum=0.99)
    model.target.update(model)  # the first is a copy
    with torch.no_grad():
        for p in model.target.parameters():
            p.fill_(1)
        for p in model.parameters():
            if p.requires_grad:
                p.fill_(3)
    buffers = copy.deepcopy(dict(model.target.named_buffers()))
    model.target.update(model)
    for p in model.target.parameters():
        torch.testing.assert_close(p, torch.full_like(p, 1.02))
    for name, value in model.target.named_buffers():
        if "running" in name:
            assert torch.equal(value, buffers[name])


def test_step_of_lars_by_hand():
    """Trust ratio 1e-3 x 5 / 1; without it where a parameter is excluded."""
    weights = [torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2)]
    groups = [dict(params=[weights[0]]), dict(params=[weights[1]], lars_exclude=True)]
    optimizer = LARS(groups, lr=4.8, momentum=0.9, eta=1e-3)
    for weight in weights:
        weight.grad = torch.tensor([0.6, 0.8])
    optimizer.step()
    torch.testing.assert_close(weights[0].data, torch.tensor([2.9856, 3.9808]))
    torch.testing.assert_close(weights[1].data, torch.tensor([0.12, 0.16]))


# --- mmpretrain's


@pytest.fixture
def hub():
    """The message hub that mmpretrain's schedule reads, as a runner has it."""
    name = "test_byol"
    hub = MessageHub.get_instance(name)
    yield hub
    MessageHub._instance_dict.pop(name)


def theirs_of(name):
    """Name in mmpretrain's model of one of our parameters."""
    for ours, other in (
        ("compare.", "head."),
        ("target.backbone.", "target_net.module.0."),
        ("target.neck.", "target_net.module.1."),
    ):
        name = name.replace(ours, other)
    return name


def test_equals_mmpretrain_step_for_step(hub):
    """Its loss is less by 4; its momentum is what tau lacks to 1."""
    ours = build(momentum=dict(kind="cosine", start=0.9, end=1.0))
    ours.clock.total = 3
    init_default_scope("mmpretrain")
    head = dict(
        type="LatentPredictHead",
        predictor=PREDICTOR,
        loss=dict(type="CosineSimilarityLoss"),
    )
    theirs = MODELS.build(
        dict(
            type="mmpretrain.BYOL",
            backbone=BACKBONE,
            neck=NECK,
            head=head,
            base_momentum=0.1,
        )
    )
    assert type(theirs).__module__.startswith("mmpretrain.")
    theirs = theirs.double().train()
    names = {name: theirs_of(name) for name, _ in ours.named_parameters()}
    assert set(names.values()) == {name for name, _ in theirs.named_parameters()}
    start = copy.deepcopy(ours.state_dict())
    with torch.no_grad():
        for name, other in names.items():
            theirs.get_parameter(other).copy_(start[name])
    optimizers = [
        torch.optim.SGD(
            [p for p in m.parameters() if p.requires_grad],
            lr=0.05,
            momentum=0.9,
            weight_decay=1e-4,
        )
        for m in (ours, theirs)
    ]
    hub.update_info("max_iters", 3)
    for k in range(3):
        losses = [
            train(m, images(k), o)
            for m, o in zip((ours, theirs), optimizers, strict=True)
        ]
        # Its schedule is rounded to single precision.
        assert losses[0] - 4 == pytest.approx(losses[1], abs=1e-6)
        for name, other in names.items():
            both = ours.get_parameter(name), theirs.get_parameter(other)
            torch.testing.assert_close(*both, rtol=1e-5, atol=1e-6, msg=name)
    moved = ours.target.backbone.conv1.weight
    assert not torch.equal(moved, start["target.backbone.conv1.weight"])
    assert not torch.equal(moved, ours.backbone.conv1.weight)
