"""MIRA: codes of most mutual information, what they minimise, and the loss."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.losses import informative_codes
from tests.distributed import run_ranks

from .common import build, double, freeze_norms, sgd, train_in_double, views
from .loops import dot, unit


def rows(*values):
    return torch.tensor(values, dtype=torch.double)


A = rows((0.8, 0.2), (0.6, 0.1))
C = rows((0.9, 0.1, 0), (0.8, 0.3, 0.1), (0.2, 0.7, 0.1))


@pytest.mark.parametrize(
    ("num_iters", "expected"),
    [
        (0, ((0.806505, 0.193495), (0.695817, 0.304183))),
        (1, ((0.804568, 0.195432), (0.693194, 0.306806))),
        (30, ((0.804547, 0.195453), (0.693165, 0.306835))),
    ],
)
def test_codes_by_hand(num_iters, expected):
    found = informative_codes(A, 0.5, 2 / 3, num_iters)
    torch.testing.assert_close(found, rows(*expected), rtol=0, atol=1e-6)
    if num_iters == 30:
        mean = rows(0.748856, 0.251144)
        torch.testing.assert_close(found.mean(0), mean, rtol=0, atol=1e-6)


def test_loss_by_hand():
    codes = informative_codes(A, 0.225, 2 / 3)
    expected = rows((0.961930, 0.038070), (0.869459, 0.130541))
    torch.testing.assert_close(codes, expected, rtol=0, atol=1e-6)
    s = rows((0.5, 0.1), (0.2, 0.3))
    loss = -(codes * (s / 0.1).log_softmax(1)).sum(1).mean()
    assert loss.item() == pytest.approx(0.676575, abs=1e-6)


def test_three_images_by_hand():
    codes = informative_codes(C, 0.225, 0.75)
    expected = rows(
        *((0.998570, 0.000005, 0.001424), (0.951419, 0.001078, 0.047503)),
        (0.000016, 0.965275, 0.034709),
    )
    torch.testing.assert_close(codes, expected, rtol=0, atol=1e-6)
    mean = rows(0.650002, 0.322119, 0.027879)
    torch.testing.assert_close(codes.mean(0), mean, rtol=0, atol=1e-6)


SCORES = unit(7, 6, seed=1) @ unit(5, 6, seed=2).T


def in_loops(scores, temperature, beta, num_iters):
    """As the official code, one entry at a time."""
    e = -beta / (1 - beta)
    p = []
    for row in scores.tolist():
        row = [math.exp(t / (temperature * (1 - beta))) for t in row]
        p.append([x / sum(row) for x in row])

    def mean(x):
        return [(sum(c) / len(c)) ** (1 - beta) for c in zip(*x, strict=True)]

    v = mean(p)
    for _ in range(num_iters):
        scale = [dot([x**e for x in v], row) for row in p]
        v = mean([[x / s for x in row] for row, s in zip(p, scale, strict=True)])
    w = [[x**e * y for x, y in zip(v, row, strict=True)] for row in p]
    return torch.tensor([[x / sum(row) for x in row] for row in w]).double()


@pytest.mark.parametrize("beta", [0, 0.5, 2 / 3, 0.75])
def test_codes_equal_loops_and_their_conditions(beta):
    codes = informative_codes(SCORES, 0.225, beta)
    loops = in_loops(SCORES, 0.225, beta, 30)
    torch.testing.assert_close(codes, loops, rtol=1e-6, atol=1e-9)
    prior = (SCORES / 0.225).log_softmax(1)
    if beta == 0:
        torch.testing.assert_close(codes, prior.exp())
    torch.testing.assert_close(codes.sum(1), torch.ones(7).double())
    # W ~ P'^(1 / (1 - beta)) w^e with w = mean W: the fixed point
    w = informative_codes(SCORES, 0.225, beta, 300)
    logs = prior / (1 - beta) - beta / (1 - beta) * w.mean(0).log()
    torch.testing.assert_close(w, logs.softmax(1))
    added = SCORES + torch.arange(7.0).double()[:, None]
    torch.testing.assert_close(informative_codes(added, 0.225, beta), codes)
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = informative_codes(SCORES[:, order], 0.225, beta)
    torch.testing.assert_close(moved, codes[:, order])
    alike = informative_codes(SCORES[:1].expand(4, -1), 0.225, beta, 300)
    torch.testing.assert_close(alike, prior[:1].exp().expand(4, -1))
    one = informative_codes(SCORES + torch.eye(5)[0].double(), 0.225, beta)
    assert (one - codes).abs().max() > 0.1  # unlike Sinkhorn's
    sets = informative_codes(torch.stack([SCORES, -SCORES]), 0.225, beta)
    torch.testing.assert_close(sets[0], codes)


def objective(w, beta):
    prior = (SCORES / 0.225).log_softmax(1)
    divergence = (w * (w.log() - prior)).sum(1).mean()
    entropy = torch.special.entr
    information = entropy(w.mean(0)).sum() - entropy(w).sum(1).mean()
    return divergence - beta * information


@pytest.mark.parametrize("beta", [0.5, 0.75])
def test_no_other_codes_are_better(beta):
    w = informative_codes(SCORES, 0.225, beta, 300)
    best = objective(w, beta)
    logits = w.log().requires_grad_()
    (slope,) = torch.autograd.grad(objective(logits.softmax(1), beta), logits)
    assert slope.abs().max() < 1e-10
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 0.1, 1, 5):
        for _ in range(10):
            noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
            assert objective((w.log() + size * noise).softmax(1), beta) > best


def test_a_larger_weight_gives_more_information_for_less_likeness():
    divergence, information = [], []
    for beta in (0, 0.3, 0.6, 0.8):
        w = informative_codes(SCORES, 0.225, beta, 300)
        found = objective(w.clamp(min=1e-300), 0), objective(w.clamp(min=1e-300), 1)
        divergence.append(found[0].item())
        information.append((found[0] - found[1]).item())
    assert divergence == sorted(divergence) and information == sorted(information)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.225, 1e-3])
def test_nothing_overflows(temperature, dtype):
    scores = (unit(64, 8, seed=1) @ unit(640, 8, seed=2).T).to(dtype)
    codes = informative_codes(scores, temperature, 0.9)
    assert codes.dtype == torch.float and codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(64))


# The method

CROPS = tuple((v, t) for t in (0, 1) for v in range(4) if v != t)


def model(**changes):
    return freeze_norms(double(build("MIRA", **changes)))


def test_value_and_gradient_equal_loops():
    ours, exact = model(pairs=CROPS), model(pairs=CROPS)
    given = [x.double() for x in views(3) + views(3, seed=1)]
    found = ours.loss(given)["loss_instance"]
    assert ours.target.num_steps == 1  # an exact copy, as the student is here
    c = exact.compare.prototypes.weight
    c = torch.stack([row / dot(row, row).sqrt() for row in c])
    z = [normalize(exact.neck(exact.backbone(x)[-1:])[0]) for x in given]
    s = [torch.stack([torch.stack([dot(r, m) for m in c]) for r in x]) for x in z]
    terms = []
    for v, t in CROPS:
        w = in_loops(s[t].detach(), 0.225, 2 / 3, 30)
        for n in range(3):
            log_sum = (s[v][n] / 0.1).exp().sum().log()
            terms.append(dot(w[n], log_sum - s[v][n] / 0.1))
    wanted = sum(terms) / len(terms)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
    found.backward()
    wanted.backward()
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            truth = exact.get_parameter(name).grad
            torch.testing.assert_close(parameter.grad, truth, rtol=1e-4, atol=1e-7)


def test_gradcheck():
    ours = model()
    compare = ours.compare
    codes = compare.codes_of_targets(ours, ours.step([x.double() for x in views(3)]))
    compare.codes_of_targets = lambda *_: codes  # which get no gradient
    weight = compare.prototypes.weight.detach().clone().requires_grad_()
    del compare.prototypes.weight

    def loss(x, weight):
        online = {v: {"embedding": normalize(x[v], dim=1)} for v in (0, 1)}
        compare.prototypes.weight = weight
        return compare(ours, SimpleNamespace(online=online))["instance"]

    x = torch.randn(2, 3, ours.dim, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (x, weight))


def test_targets_move_by_the_network_but_have_its_prototypes():
    ours = model(momentum=0.75)
    assert "prototypes" not in dict(ours.target.named_children())
    given = [x.double() for x in views(4)]
    before = []
    for _ in range(2):
        before.append([p.detach().clone() for p in ours.neck.parameters()])
        loss = ours.loss(given)["loss_instance"]
        optimizer = sgd(ours)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    first, second = before
    for old, new, target in zip(
        first, second, ours.target.neck.parameters(), strict=True
    ):
        torch.testing.assert_close(target, 0.75 * old + 0.25 * new)
    # A prototype that moves moves the codes in the same step.
    step = ours.step(given)
    codes = ours.compare.codes_of_targets(ours, step)[1]
    with torch.no_grad():
        ours.compare.prototypes.weight[0] *= -1
    assert not torch.allclose(ours.compare.codes_of_targets(ours, step)[1], codes)


def train(rank, world_size):
    return train_in_double(model(), rank, world_size)


def on_a_rank(rank):
    uneven = informative_codes(SCORES[:2] if rank == 0 else SCORES[2:], 0.225, 0.75)
    return train(rank, 2), uneven


def test_two_ranks_equal_one():
    ranks, (history, state) = run_ranks(on_a_rank, 2), train(0, 1)
    whole = informative_codes(SCORES, 0.225, 0.75)
    torch.testing.assert_close(torch.cat([found[1] for found in ranks]), whole)
    means = [sum(x) / 2 for x in zip(*(found[0][0] for found in ranks), strict=True)]
    assert means == pytest.approx(history, rel=1e-9)
    for found in ranks:
        for name, value in state.items():
            torch.testing.assert_close(found[0][1][name], value, msg=name)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(beta=1), "beta=1 must be 0 or more and below 1"),
        (dict(beta=dict(kind="cosine", start=-0.1, end=0.5)), "must lie in|0 or more"),
        (dict(num_iters=0.5), "num_iters=0.5 must be a whole number above 0"),
        (dict(target_temperature=0), "target_temperature=0 is not a temperature"),
        (dict(compare={}), "MIRA makes its own compare"),
    ],
)
def test_wrong_values_say_what_to_change(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("MIRA", **changes)


def test_schedules_are_the_papers():
    ours = build("MIRA", beta=None, momentum=None)
    ours.clock.total = 100
    values = {}
    for k in (0, 50, 100):
        ours.clock.set(k)
        values[k] = [x(ours.clock) for x in ours.schedules[-2:]]
    expected = {0: (0.75, 0.99), 50: (0.708333, 0.995), 100: (2 / 3, 1)}
    for k, found in values.items():
        assert found == pytest.approx(expected[k], abs=1e-6)
    training = SimpleNamespace(iteration=0, batch_size=64, logger=None)
    ours.compare.start(training)
