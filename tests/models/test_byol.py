"""BYOL against mmpretrain's, against a loss written in loops, and by hand."""

import copy
import math

import pytest
import torch
from mmengine.logging import MessageHub
from mmpretrain.engine.optimizers import LARS

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.layers import unit

from ..harness import RunHarness, Watch, assert_same, config, stop_at, write_images
from .common import PREDICTOR, build, model_config, step, views
from .loops import mean_cosine
from .peers import COSINE, assert_trains_alike, in_encoders, in_targets, peer


def build_double(**changes):
    """A BYOL of 1/8 width in double precision, whose target moves visibly."""
    return build("BYOL", **changes).double()


def images(seed=0):
    return [view.double() for view in views(6, seed)]


# --- the loss


def loss_of(model, p1, t2, p2, t1):
    """The loss of predictions and targets, M x D, of any length."""
    p1, t2, p2, t1 = (torch.as_tensor(x, dtype=torch.double) for x in (p1, t2, p2, t1))
    online = {0: {"embedding": unit(p1)}, 1: {"embedding": unit(p2)}}
    target = {0: {"embedding": unit(t1)}, 1: {"embedding": unit(t2)}}
    step = Step({}, None, None, online, target, {})
    return model.compare(model, step)["instance"]


def test_loss_by_hand():
    byol = build_double()
    one = loss_of(byol, [[3, 4]], [[1, 0]], [[0, 2]], [[1, 1]])
    assert one.item() == pytest.approx(0.8 + 0.585786, abs=1e-6)
    one_way = build_double(pairs=((0, 1),))
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


def test_gradient_by_hand_and_numerically():
    byol = build_double()
    p = torch.tensor([[3.0, 4.0]], dtype=torch.double, requires_grad=True)
    t = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    byol.compare.pair(unit(p), unit(t)).backward()
    torch.testing.assert_close(p.grad, torch.tensor([[-0.256, 0.192]]).double())
    torch.manual_seed(0)
    p1, p2 = torch.randn(2, 3, 5, dtype=torch.double, requires_grad=True)
    t1, t2 = torch.randn(2, 3, 5, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda a, b: loss_of(byol, a, t2, b, t1), (p1, p2))


# --- the step


def test_two_steps_equal_the_definition():
    """Loss, gradients and both networks; tau is that of the second step."""
    model = build_double(momentum=dict(kind="cosine", start=0.6, end=1.0))
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
        expected = 4 - 2 * mean_cosine(p[0], t[1]) - 2 * mean_cosine(p[1], t[0])
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        losses = step(model, inputs, optimizers[0])
        assert losses["loss_instance"] == pytest.approx(expected.item())
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
    model = build_double()
    with torch.no_grad():
        for p in model.parameters():  # as if weights were loaded after the build
            p.add_(0.01)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    step(model, images(), optimizer)
    for name, value in model.target.named_parameters():
        assert torch.equal(value, before[name]), name
        assert not torch.equal(value, model.get_parameter(name))
    assert not any("predictor" in name for name, _ in model.target.named_parameters())


def test_identical_views_and_networks_have_no_loss():
    model = build_double(predictor=None).eval()
    view = images()[0]
    loss = model([view, view], mode="loss")["loss_instance"]
    assert loss.item() == pytest.approx(0, abs=1e-12)


# --- momentum and optimizer


def test_schedules_follow_the_run_also_after_a_resume(tmp_path):
    """Three epochs of four iterations, stopped in the second, in the warm-up."""
    images = write_images(tmp_path / "images")
    found = []

    def look(runner):
        model = runner.model
        weight = model.weights["consistency"]
        found.append((model.target.momentum(model.clock), weight(model.clock)))

    def run(name):
        hooks = dict(resume=dict(type="ExactResumeHook"))
        cfg = config(images, tmp_path / name, 3, **hooks)
        momentum = dict(kind="cosine", start=0.9, end=1.0)
        weight = dict(kind="step", start=0, end=0.3, until=7)
        term = dict(type="Consistency", temperature=0.1, queue_len=32, weight=weight)
        cfg.model = model_config("BYOL", momentum=momentum, terms=[term])
        return RunHarness.of(cfg, Watch(before_train_iter=look))

    whole, cut = run("whole"), run("cut")
    whole.train()
    taus = [1 - 0.1 * (math.cos(math.pi * k / 12) + 1) / 2 for k in range(12)]
    weights = [0] * 7 + [0.3] * 5
    assert [tau for tau, _ in found] == pytest.approx(taus)
    assert [weight for _, weight in found] == weights
    expected = found[4:]
    cut.train(stop_at(6), stops=True)
    found.clear()
    cut.train(resume=True)
    assert found == expected
    assert_same(cut.end(12), whole.end(12))


def test_momentum_unless_told_is_the_papers():
    momentum = build("BYOL", momentum=None).target.momentum
    assert (momentum.start, momentum.end) == (0.996, 1)


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


def test_equals_mmpretrain_step_for_step():
    """Its loss is less by 4; its momentum is what tau lacks to 1."""
    ours = build_double(momentum=dict(kind="cosine", start=0.9, end=1.0))
    ours.clock.total = 3
    head = dict(type="LatentPredictHead", predictor=PREDICTOR, loss=COSINE)
    config = model_config("BYOL") | dict(head=head, base_momentum=0.1)
    for name in ("predictor", "momentum"):
        del config[name]
    theirs = peer("BYOL", config).double()
    names = in_encoders(ours, ("backbone", "neck", "compare.predictor"))
    names = {ours: name.replace("compare.", "head.") for ours, name in names.items()}
    names |= in_targets(ours, "target_net")
    names = {n: other for n, other in names.items() if "running" not in n}
    hub = MessageHub.get_instance("test_byol")  # that its schedule reads
    hub.update_info("max_iters", 3)
    losses = {"loss_instance": "loss"}
    try:  # its schedule is rounded to single precision
        assert_trains_alike(
            *(ours, theirs, names, images, losses, 4), rtol=1e-5, atol=1e-6
        )
    finally:
        MessageHub._instance_dict.pop("test_byol")
    moved = ours.target.backbone.conv1.weight
    assert not torch.equal(moved, ours.backbone.conv1.weight)
