"""DINO: by hand, against loops, and what its teacher, centre and prototypes do."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from mmssl_ext.engine.hooks import ClipEachHook
from mmssl_ext.engine.training.clip import clip_each
from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.layers import unit
from mmssl_ext.models.losses import (
    prototype_aims,
    prototype_logsumexp,
    prototype_softmax,
)
from mmssl_ext.models.memory import Centre, centre

from .bases import views
from .common import build, double, freeze_norms, sgd, step, total
from .loops import dot
from .loops import unit as rows
from .shapes import largest

PAIRS = tuple((v, i) for i in (0, 1) for v in range(4) if v != i)  # 2 + 2 crops


def tensor(*values):
    return torch.tensor(values, dtype=torch.double)


# The loss


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(powers) for x in powers]


def cross_entropy(t, c, s, sharp, soft):
    """Of one target and one prediction of K logits, in loops."""
    label = softmax([(x - y) / sharp for x, y in zip(t, c, strict=True)])
    peak = max(s)
    z = math.log(sum(math.exp((x - peak) / soft) for x in s)) + peak / soft
    return sum(p * (z - x / soft) for p, x in zip(label, s, strict=True))


T = tensor([1, 0, -1], [0.5, 0.5, 0])
C = tensor(0.2, 0.1, -0.3)
S = tensor([0.6, 0.2, -0.2], [0.1, 0.4, 0.1], [0.3, 0, 0.2])


def terms(t, c, s, ours, theirs, sharp=0.5, soft=0.1):
    """Cross-entropies of every prediction and target, V x 2, of one image."""
    mean = prototype_aims(t, theirs, c, ours, sharp).mean
    return prototype_logsumexp(s, ours, soft)[:, None] - s @ mean.T / soft


def test_by_hand():
    """Case A: with unit prototypes along the axes rows are logits."""
    eye = torch.eye(3, dtype=torch.double)
    found = terms(T, C, S, eye, eye)
    wanted = {(1, 0): 2.686806, (2, 0): 0.798103, (0, 1): 4.018479, (2, 1): 1.796893}
    for pair, value in wanted.items():
        assert found[pair].item() == pytest.approx(value, abs=1e-6), pair
    mean = sum(found[pair].item() for pair in wanted) / 4
    assert mean == pytest.approx(2.325070, abs=1e-6)
    targets, entropy, first, mass = prototype_aims(T, eye, C, eye, 0.5)
    shares = tensor([0.822987, 0.136039, 0.040974], [0.310424, 0.379152, 0.310424])
    torch.testing.assert_close(targets, shares, rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy, torch.special.entr(targets).sum(1))
    torch.testing.assert_close(mass, targets.sum(0))
    assert first.tolist() == [0, 1]


def test_sharp_targets_by_hand():
    """Case C; at no temperature at all the best alone is left."""
    eye = torch.eye(3, dtype=torch.double)
    targets = prototype_aims(T, eye, C, eye, 0.04).mean
    wanted = tensor([1, 0, 0], [0.070509, 0.858981, 0.070509])
    torch.testing.assert_close(targets, wanted, rtol=0, atol=1e-6)
    targets = prototype_aims(T, eye, C, eye, 1e-4).mean
    torch.testing.assert_close(targets, tensor([1, 0, 0], [0, 1, 0]))
    targets, entropy, *_ = prototype_aims(T[:1], eye, T[0], eye, 0.04)
    torch.testing.assert_close(targets, torch.full((1, 3), 1 / 3).double())
    assert entropy.item() == pytest.approx(math.log(3))


def test_next_centre_by_hand():
    """Case B, and no row at all."""
    made = Centre(3).double()
    made.value.copy_(C)
    for whole, count in ((T.sum(0), 2), (torch.zeros(3).double(), 0)):
        made.follow(whole, torch.tensor(count))
        torch.testing.assert_close(made.value, tensor(0.255, 0.115, -0.32))


@pytest.fixture
def small_blocks(monkeypatch):
    """Four prototypes in a block."""
    monkeypatch.setattr(
        prototype_softmax, "queue_blocks", lambda rows, queue: queue.split(4)
    )


def test_loss_and_gradient_equal_the_loop(small_blocks):
    """Of all pairs of 2 + 2 crops, blocks of four of eleven prototypes."""
    x, t, ours = rows(4, 3, 5), rows(2, 3, 5, seed=1), rows(11, 5, seed=2)
    theirs, c = rows(11, 5, seed=3), 0.1 * rows(11, seed=4)
    x.requires_grad_(), ours.requires_grad_()
    found = torch.stack([terms(t[:, n], c, x[:, n], ours, theirs) for n in range(3)])
    loss = sum(found[:, v, i].mean() for v, i in PAIRS) / len(PAIRS)
    slopes = torch.autograd.grad(loss, (x, ours))

    def scores(row, prototypes):
        return [dot(row, w) for w in prototypes]

    slow = 0.0
    for v, i in PAIRS:
        for n in range(3):
            s = torch.stack(scores(x[v, n], ours))
            logits = scores(t[i, n], theirs)
            label = softmax([(a - b) / 0.5 for a, b in zip(logits, c, strict=True)])
            slow = slow - dot(label, (s / 0.1).log_softmax(0))
            exact = cross_entropy(logits, c.tolist(), s.tolist(), 0.5, 0.1)
            assert found[n, v, i].item() == pytest.approx(exact, abs=1e-12)
    slow = slow / 3 / len(PAIRS)
    torch.testing.assert_close(loss, slow, rtol=0, atol=1e-12)
    for ours_, loop in zip(slopes, torch.autograd.grad(slow, (x, ours)), strict=True):
        torch.testing.assert_close(ours_, loop, rtol=0, atol=1e-12)


def test_gradcheck(small_blocks):
    t, theirs, c = rows(2, 3, seed=1), rows(6, 3, seed=3), 0.1 * rows(6, seed=4)
    given = rows(3, 3).requires_grad_(), rows(6, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, ours: terms(t, c, x, ours, theirs, 0.2, 0.3), given
    )


def test_invariances():
    """1 and 2 of the sheet: equal logits cost ln K; constants do not count."""
    x, t, ours = rows(4, 5), rows(2, 5, seed=1), rows(9, 5, seed=2)
    c = 0.1 * rows(9, seed=3)
    level = ours - (ours @ x[0])[:, None] * x[0]  # at right angles to x_0
    equal = terms(t, c, x[:1], level, ours)
    torch.testing.assert_close(equal, torch.full_like(equal, math.log(9)))
    found = terms(t, c, x, ours, ours)
    torch.testing.assert_close(terms(t, c + 0.7, x, ours, ours), found)
    moved = torch.cat([ours, torch.ones(9, 1).double()], 1)  # adds a constant
    shifted = torch.cat([x, torch.full((4, 1), 0.3).double()], 1)
    other = torch.cat([t, torch.full((2, 1), -0.4).double()], 1)
    torch.testing.assert_close(terms(other, c, shifted, moved, moved), found)
    both = torch.cat([ours, rows(9, seed=5)[:, None]], 1)  # vector and centre
    wide = torch.cat([t, torch.ones(2, 1).double()], 1)
    kept = torch.cat([x, torch.zeros(4, 1).double()], 1)
    torch.testing.assert_close(terms(wide, c + both[:, 5], kept, both, both), found)


def test_no_matrix_of_images_by_prototypes():
    x, t = rows(64, 8, dtype=torch.float), rows(32, 8, dtype=torch.float, seed=1)
    ours = rows(65536, 8, dtype=torch.float, seed=2).requires_grad_()
    x.requires_grad_()
    c = torch.zeros(65536)

    def train():
        mean = prototype_aims(t, ours.detach(), c, ours, 0.04).mean
        whole = prototype_logsumexp(x, ours, 0.1)
        (whole - (x * mean.repeat(2, 1)).sum(1) / 0.1).mean().backward()

    train()  # what is checked only once
    assert largest(train) <= 64 * 65536 // 4


# The step


def crops(batch=6, seed=0, **options):
    """Two large views and two small ones."""
    large = views(batch, seed, 64, **options)
    return [*large, *views(batch, seed + 100, 32, **options)]


def multi_crop(**changes):
    return build("DINO", pairs=PAIRS, **changes)


def test_losses_of_a_model_by_hand():
    """The class takes its temperatures below one another, so its own are used."""
    pairs = (1, 0), (2, 0), (0, 1), (2, 1)
    model = double(build("DINO", pairs=pairs, num_prototypes=3))
    model.compare.prototypes.weight.data = 2 * torch.eye(3).double()
    model.target.prototypes.weight.data = 3 * torch.eye(3).double()
    online = {v: {"embedding": S[v : v + 1]} for v in range(3)}
    target = {i: {"embedding": T[i : i + 1]} for i in range(2)}
    made = Step({}, None, None, online, target, {})
    found = model.compare(model, made)["instance"].item()
    wanted = [
        cross_entropy(T[i].tolist(), [0, 0, 0], S[v].tolist(), 0.04, 0.1)
        for v, i in model.pairs
    ]
    assert found == pytest.approx(sum(wanted) / 4, abs=1e-9)


def test_two_steps_equal_the_definition():
    """Losses, gradients, teacher and centre of 2 + 2 crops, in float64."""
    model = freeze_norms(double(multi_crop(momentum=0.7)))
    truth, teacher = copy.deepcopy(model), copy.deepcopy(model)
    centre = torch.zeros(24).double()
    optimizers = [sgd(m) for m in (model, truth)]
    for seed in range(2):
        inputs = crops(3, seed, dtype=torch.double)
        keep = 0.0 if seed == 0 else 0.7
        with torch.no_grad():
            for name, p in teacher.named_parameters():
                if not name.startswith("target."):
                    p.lerp_(truth.get_parameter(name), 1 - keep)
        logits = {}
        for name, m in {"s": truth, "t": teacher}.items():
            z = [unit(m.neck(m.backbone(x))[0]) for x in inputs]
            logits[name] = [x @ unit(m.compare.prototypes.weight).T for x in z]
        t = [x.detach() for x in logits["t"][:2]]
        loss = 0.0
        for v, i in PAIRS:
            label = ((t[i] - centre) / 0.04).softmax(1)
            log = (logits["s"][v] / 0.1).log_softmax(1)
            loss = loss - (label * log).sum(1).mean() / len(PAIRS)
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        centre = 0.9 * centre + 0.1 * torch.cat(t).mean(0)
        found = step(model, inputs, optimizers[0])
        assert found["loss_instance"] == pytest.approx(loss.item(), abs=1e-10)
        torch.testing.assert_close(model.compare.centre.value, centre)
        for name, p in truth.named_parameters():
            if not name.startswith("target."):
                torch.testing.assert_close(model.get_parameter(name), p)
                assert model.get_parameter(name).grad.abs().sum() > 0, name
        for name, p in model.target.named_parameters():
            own = f"compare.{name}" if name.startswith("prototypes") else name
            torch.testing.assert_close(p, teacher.get_parameter(own))


def test_the_teacher_sees_large_crops_alone():
    """Nothing of it moves with the small ones, and one pass holds the large."""
    models = [multi_crop() for _ in range(2)]
    one, other = crops(), crops()
    other[2:] = [x + 1 for x in other[2:]]
    passes = []
    hook = models[0].target.backbone.register_forward_hook
    hook(lambda module, given, output: passes.append(tuple(given[0].shape)))
    for model, inputs in zip(models, (one, other), strict=True):
        model(one, mode="loss")  # the first move copies the student's statistics
        model(inputs, mode="loss")
    assert passes == [(12, 3, 64, 64)] * 2
    ours, theirs = (m.target.state_dict() for m in models)
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name
    name = "backbone.bn1.running_mean"
    assert not torch.equal(models[0].state_dict()[name], ours[name])
    assert torch.equal(*(m.compare.centre.value for m in models))


def test_order_of_small_crops_and_length_of_rows_do_not_matter():
    """3 and 6 of the sheet."""
    model = double(multi_crop()).eval()
    inputs = crops(dtype=torch.double)
    found = model(inputs, mode="loss")["loss_instance"]
    model = double(multi_crop()).eval()
    turned = model([*inputs[:2], inputs[3], inputs[2]], mode="loss")["loss_instance"]
    torch.testing.assert_close(turned, found)
    model = double(multi_crop()).eval()
    with torch.no_grad():
        model.compare.prototypes.weight *= torch.arange(1, 25)[:, None]
        model.neck.mlp[-1].weight *= 3
    torch.testing.assert_close(model(inputs, mode="loss")["loss_instance"], found)


def test_momentum_1_keeps_the_teacher():
    model = build("DINO", momentum=1.0)
    optimizer = sgd(model)
    step(model, views(4, 0, 32), optimizer)
    before = copy.deepcopy(dict(model.target.named_parameters()))
    step(model, views(4, 1, 32), optimizer)
    for name, value in model.target.named_parameters():
        assert torch.equal(value, before[name]), name


def test_defaults_are_the_official_ones():
    model = build("DINO", num_prototypes=8, momentum=None)
    momentum = model.target.momentum
    assert (momentum.kind, momentum.start, momentum.end) == ("cosine", 0.996, 1.0)
    model.clock.total = 1000
    found = [momentum.at(k, model.clock) for k in (0, 500, 1000)]
    assert found == pytest.approx([0.996, 0.998, 1])
    assert model.compare.temperature == 0.1
    assert model.compare.sharpness(model.clock) == 0.04
    assert model.compare.centre.momentum == 0.9
    assert model.grouping == "size"
    linear = [m for m in model.neck.modules() if isinstance(m, torch.nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == [(32, 64), (32, 32), (16, 32)]
    assert all((m.bias == 0).all() and m.weight.abs().max() < 0.1 for m in linear)


def test_temperature_rises_also_in_short_runs():
    rise = dict(kind="linear", start=0.04, end=0.07, until=30, unit="epoch")
    model = build("DINO", target_temperature=rise)
    model.clock.epoch_length, model.clock.total = 10, 20
    sharpness = model.compare.sharpness
    found = [sharpness.at(k, model.clock) for k in (0, 10, 19, 300, 400)]
    assert found == pytest.approx([0.04, 0.041, 0.0419, 0.07, 0.07])
    share = dict(kind="linear", start=0.04, end=0.07, until=0.3, unit="training")
    model = build("DINO", target_temperature=share)
    model.clock.total = 100
    sharpness = model.compare.sharpness
    found = [sharpness.at(k, model.clock) for k in (0, 10, 30, 99)]
    assert found == pytest.approx([0.04, 0.05, 0.07, 0.07])
    assert sharpness.follows_length and sharpness in model.schedules


def test_accumulated_gradients_move_the_centre_once():
    models = [freeze_norms(double(build("DINO"))) for _ in range(2)]
    for model, parts in zip(models, (1, 3), strict=True):
        model.clock.accumulation = parts
        whole = views(6, 0, 32, dtype=torch.double)
        for part in range(parts):
            model([x.chunk(parts)[part] for x in whole], mode="loss")
    one, other = (m.compare.centre.value for m in models)
    assert one.abs().sum() > 0
    torch.testing.assert_close(one, other)
    assert models[1].target.num_steps == 1


def test_bfloat16_training_is_finite():
    model = build("DINO")
    optimizer = sgd(model)
    for seed in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found = model(views(4, seed, 32), mode="loss")
        assert all(torch.isfinite(x) for x in found.values())
        assert found["loss_instance"].dtype == torch.float
        optimizer.zero_grad()
        total(found).backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.compare.centre.value.isfinite().all()


def test_ranks_may_have_batches_of_different_sizes(monkeypatch):
    """This one has two rows, the other one."""
    other = torch.cat([T[0], tensor(1)])
    monkeypatch.setattr(centre, "all_reduce", lambda sums: sums.add_(other))
    made = Centre(3).double()
    made.follow(T.sum(0), torch.tensor(2))
    torch.testing.assert_close(made.value, 0.1 * (T.sum(0) + T[0]) / 3)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(num_prototypes=1), "num_prototypes=1 must be a whole number"),
        (dict(target_temperature=0.1), "target_temperature=0.1 must be below temp"),
        (dict(target_temperature=0), "target_temperature=0 is not a temperature"),
        (dict(temperature=-1), "temperature=-1 is not a temperature"),
        (dict(centre_momentum=1), "centre_momentum=1 is the share of the old"),
        (dict(frozen_epochs=-1), "frozen_epochs=-1 must be a number of epochs"),
        (dict(momentum=0.004), "momentum=0.004 would keep"),
        (dict(compare=dict()), "DINO makes its own compare"),
        (dict(neck=dict(type="GELUNeck", in_channels=64, num_layers=0)), "num_layers"),
    ],
)
def test_what_does_not_fit_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("DINO", **changes)


# Gradients that are clipped one by one


def test_every_gradient_is_clipped_by_itself():
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    params[0].grad, params[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    clip_each(params, 1.0)
    torch.testing.assert_close(params[0].grad, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(params[1].grad, torch.tensor([0.3, 0.4]))
    assert params[2].grad is None
    clip_each(params[2:], 1.0)


def test_the_optimizer_wrapper_clips_so():
    """After accumulation; that for AMP has the same step, and needs a GPU."""
    assert AmpOptimWrapper._clip_grad is OptimWrapper._clip_grad
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(2)]
    wrapper = OptimWrapper(torch.optim.SGD(params, 1.0), accumulative_counts=2)
    hook = ClipEachHook(max_norm=1.0)
    hook.before_train(SimpleNamespace(optim_wrapper=wrapper))
    hook.before_train(SimpleNamespace(optim_wrapper=wrapper))  # a second training
    wrapper.initialize_count_status(torch.nn.Module(), 0, 2)
    for _ in range(2):
        loss = (params[0] * torch.tensor([3.0, 4.0])).sum() + 0.5 * params[1][0]
        wrapper.update_params(loss)
    torch.testing.assert_close(params[0].data, torch.tensor([-0.6, -0.8]))
    torch.testing.assert_close(params[1].data, torch.tensor([-0.5, 0.0]))


def test_clipping_twice_is_refused():
    with pytest.raises(ValueError, match="max_norm=0 must be above 0"):
        ClipEachHook(max_norm=0)
    params = [torch.nn.Parameter(torch.zeros(2))]
    wrapper = OptimWrapper(torch.optim.SGD(params, 1.0), clip_grad=dict(max_norm=1))
    with pytest.raises(ValueError, match=r"and so does optim_wrapper\.clip_grad"):
        ClipEachHook().before_train(SimpleNamespace(optim_wrapper=wrapper))
