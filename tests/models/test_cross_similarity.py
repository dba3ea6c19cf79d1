"""The terms inspired by XMoCo: by hand, against loops, and in the batch of a method."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl_ext.models.losses import cross_divergence, cross_squares, cross_uniformity

from .bases import build, losses, method, term, total, views
from .loops import unit

Q = torch.tensor([(1.0, 0.0), (0.6, 0.8), (0.0, 1.0)], dtype=torch.double)
K = torch.tensor([(0.8, 0.6), (0.0, 1.0), (-0.6, 0.8)], dtype=torch.double)
FORMS = ("squares", "divergence", "uniformity")


def loss(form, q, k, temperature=0.2):
    """Of each image, with the whole batch at hand."""
    there, back, own = q @ k.T, k @ q.T, torch.arange(len(q))
    if form == "squares":
        return cross_squares(there, back)
    if form == "divergence":
        return cross_divergence(there, back, own, temperature)
    return cross_uniformity(there, own, temperature)


def loop(form, q, k, temperature=0.2):
    """The same, pair by pair."""
    found = []
    for i in range(len(q)):
        rest = [j for j in range(len(q)) if j != i]
        there = torch.stack([torch.dot(q[i], k[j]) for j in rest])
        back = torch.stack([torch.dot(q[j], k[i]) for j in rest])
        if form == "squares":
            found.append(sum((there - back) ** 2) / len(rest))
            continue
        p = (there / temperature).exp() / (there / temperature).exp().sum()
        r = (back / temperature).exp() / (back / temperature).exp().sum()
        if form == "divergence":
            kl = sum(
                a * (a / b).log() + b * (b / a).log() for a, b in zip(p, r, strict=True)
            )
            found.append(kl / 2)
        else:
            u = 1 / len(rest)
            found.append(sum(u * (u / a).log() for a in p))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("form", "rows", "mean"),
    [
        ("squares", None, 0.96),
        ("divergence", (0.056655, 4.036249, 0.128489), 1.407131),
        ("uniformity", (0.855440, 1.039681, 0.433781), 0.776301),
    ],
)
def test_by_hand(form, rows, mean):
    found = loss(form, Q, K)
    assert found.mean().item() == pytest.approx(mean, abs=1e-6)
    if rows is not None:
        torch.testing.assert_close(
            found, torch.tensor(rows).double(), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(found, loop(form, Q, K))


def test_gradient_by_hand():
    q = Q.clone().requires_grad_()
    loss("squares", q, K).mean().backward()
    wanted = torch.tensor([(0.48, -1.28), (0.8, 0.0), (0.64, 0.96)]).double()
    torch.testing.assert_close(q.grad, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_equals_loops_and_its_symmetries(form):
    q, k = unit(6, 8), unit(6, 8, seed=1)
    one, two = (q.clone().requires_grad_() for _ in range(2))
    ours, truth = loss(form, one, k), loop(form, two, k)
    torch.testing.assert_close(ours, truth)
    weights = torch.linspace(0.5, 1.5, 6).double()
    (ours @ weights).backward()
    (truth @ weights).backward()
    torch.testing.assert_close(one.grad, two.grad)
    assert torch.autograd.gradcheck(lambda x: loss(form, x, k), one)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(form, q[order], k[order]), ours.detach()[order])
    assert not torch.allclose(loss(form, q, k[order]).mean(), ours.mean())
    assert (ours >= 0).all()
    if form != "uniformity":  # the same whichever view asks, and 0 where q is k
        torch.testing.assert_close(loss(form, k, q), ours.detach())
        torch.testing.assert_close(loss(form, q, q), torch.zeros(6).double())
    if form != "squares":
        assert loss(form, q, k, 1e6).abs().max() < 1e-9
    if form == "squares":
        assert (ours <= 4).all()


def test_two_images_have_one_other_each():
    for form in ("divergence", "uniformity"):
        assert loss(form, Q[:2], K[:2]).abs().max() < 1e-12
    equal = torch.tensor([(1.0, 0.0)] * 5).double()
    assert loss("uniformity", equal, unit(1, 2).expand(5, 2)).abs().max() < 1e-12


CASES = [
    ("CrossConsistency", {}, "squares"),
    ("CrossConsistency", dict(form="divergence", temperature=0.3), "divergence"),
    ("CrossUniformity", dict(temperature=0.3), "uniformity"),
]


@pytest.mark.parametrize(("name", "options", "form"), CASES)
@pytest.mark.parametrize("base", ["MoCo", "BYOL"])
def test_a_term_is_its_formula_in_the_batch(name, options, form, base):
    model = build(method(base, term(name, **options))).double()
    made = model.step(views(5, size=32, dtype=torch.double))
    (added,) = model.terms.values()
    found = added(model, made)
    truth = 0
    for a, b in model.pairs:
        q, k = made.online[a]["embedding"], made.target[b]["embedding"]
        truth = truth + loop(form, q, k, options.get("temperature", 0.2)).mean()
    assert found.item() == pytest.approx(truth.item(), abs=1e-10)


def test_at_weight_zero_it_is_moco_to_the_bit():
    moco, ours = (
        build(method("MoCo", *given))
        for given in (
            (),
            (term("CrossConsistency", weight=0), term("CrossUniformity", weight=0)),
        )
    )
    for model in (moco, ours):
        total(losses(model, views(6, size=32))).backward()
    peers = dict(moco.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, peers[name].grad), name


def test_one_image_has_no_other():
    model = build(method("MoCo", "CrossConsistency", "CrossUniformity"))
    found = losses(model.eval(), views(1, size=32))
    for name in ("cross_consistency", "cross_uniformity"):
        assert found[f"raw_{name}"] == 0 and found[f"loss_{name}"].requires_grad
    total(found).backward()
    assert math.isfinite(model.backbone.conv1.weight.grad.abs().sum())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("CrossConsistency", dict(form="gram"), "form='gram' must be one of squares"),
        ("CrossConsistency", dict(temperature=0), "temperature=0 is not a temp"),
        ("CrossUniformity", dict(temperature=-1), "temperature=-1 is not a temp"),
    ],
)
def test_senseless_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(method("MoCo", term(name, **options)))
