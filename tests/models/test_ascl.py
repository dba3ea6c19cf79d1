"""ASCL and ReSSL: soft targets against loops, by hand, and on their bases."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl_ext.models.losses import attend, info_nce, neighbour_target, soft_nce
from mmssl_ext.registry import MODELS

from .bases import build as build_base
from .bases import losses as losses_on
from .bases import method, term
from .bases import views as images
from .common import build, contrast, double, samples, total, views
from .loops import unit
from .shapes import largest

pytestmark = pytest.mark.filterwarnings("ignore:bn_splits=1")


def rows(*vectors):
    return torch.tensor(vectors, dtype=torch.double)


KINDS = {  # hard, adaptive
    "adaptive soft": (False, True),
    "soft": (False, False),
    "adaptive hard": (True, True),
    "hard": (True, False),
}


def loop_target(k, candidates, temperature, num, hard, adaptive):
    """Label of one key: its own share first, and its confidence."""
    logits = [torch.dot(k, n) / temperature for n in candidates]
    z = sum(x.exp() for x in logits)
    p = [(x.exp() / z).item() for x in logits]
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    c = 1 - entropy / math.log(len(p))
    factor = c if adaptive else 1
    if hard:
        nearest = sorted(range(len(p)), key=lambda j: -p[j])[:num]
        y = [factor * (j in nearest) for j in range(len(p))]
    else:
        y = [min(1, num * factor * x) for x in p]
    t = torch.tensor([1, *y], dtype=torch.double)
    return t / t.sum(), c


def loop_ascl(q, k, queue, t1, t2, num, hard, adaptive):
    """Cross-entropy of every query with its label, entry by entry."""
    found = []
    for n in range(len(q)):
        t, _ = loop_target(k[n], queue, t2, num, hard, adaptive)
        logits = [torch.dot(q[n], x) / t1 for x in [k[n], *queue]]
        z = sum(x.exp() for x in logits).log()
        found.append(-sum(p * (x - z) for p, x in zip(t, logits, strict=True)))
    return torch.stack(found)


def ascl(q, k, queue, t1, t2, num, hard=False, adaptive=True):
    mean, _ = neighbour_target(k, queue, t2, num, hard=hard, adaptive=adaptive)
    return soft_nce(q, mean, queue, t1, positives=k)


Q, K = rows((0.6, 0.8)), rows((1.0, 0.0))
QUEUE = rows((0.8, 0.6), (0.0, 1.0), (-0.6, 0.8))


@pytest.mark.parametrize(
    ("num", "kind", "temperatures", "loss"),
    [
        (1, "adaptive soft", (0.5, 1), 1.569995),
        (3, "adaptive soft", (0.5, 1), None),
        (1, "adaptive hard", (0.5, 1), 1.535089),
        (1, "hard", (0.5, 1), 1.264041),
        (0, "adaptive soft", (0.5, 1), 1.624041),
        (0, "hard", (0.5, 1), 1.624041),
        (1, "adaptive soft", (0.1, 0.05), 2.007287),
    ],
)
def test_by_hand(num, kind, temperatures, loss):
    found = ascl(Q, K, QUEUE, *temperatures, num, *KINDS[kind]).item()
    wanted = loop_ascl(Q, K, QUEUE, *temperatures, num, *KINDS[kind]).item()
    assert found == pytest.approx(wanted, abs=1e-12)
    assert loss is None or found == pytest.approx(loss, abs=1e-6)


def test_parts_by_hand():
    mean, c = neighbour_target(K, QUEUE, 1, 1)
    torch.testing.assert_close(mean, rows((0.923956, 0.090812)), atol=1e-6, rtol=0)
    assert c.item() == pytest.approx(0.140959, abs=1e-6)
    t, _ = loop_target(K[0], QUEUE, 1, 1, False, True)
    wanted = torch.tensor([0.876456, 0.072848, 0.032733, 0.017964]).double()
    torch.testing.assert_close(t, wanted, atol=1e-6, rtol=0)
    # n = 5 counts more neighbours than the queue has keys; the formula is defined.
    assert ascl(Q, K, QUEUE, 0.5, 1, 4).item() < 1.569995
    assert loop_target(K[0], QUEUE, 1, 5, False, True)[0][0].item() == pytest.approx(
        0.586581, abs=1e-6
    )
    assert loop_ascl(Q, K, QUEUE, 0.5, 1, 5, False, True).item() == pytest.approx(
        1.443184, abs=1e-6
    )
    assert neighbour_target(K, QUEUE, 0.05, 1)[1].item() == pytest.approx(
        0.999998, abs=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num", [0, 1, 5])
@pytest.mark.parametrize("t2", [0.04, 0.5])
def test_equals_loops_with_gradient(kind, num, t2):
    q, k, queue = unit(6, 8), unit(6, 8, seed=1), unit(40, 8, seed=2)
    k[0] = queue[3]  # certain of one neighbour
    one, two = (q.clone().requires_grad_() for _ in range(2))
    ours = ascl(one, k, queue, 0.2, t2, num, *KINDS[kind])
    truth = loop_ascl(two, k, queue, 0.2, t2, num, *KINDS[kind])
    torch.testing.assert_close(ours, truth)
    weights = torch.linspace(0.5, 1.5, 6).double()
    (ours @ weights).backward()
    (truth @ weights).backward()
    torch.testing.assert_close(one.grad, two.grad)
    # In any order of the queue; the own key keeps at least 1 / (1 + n).
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = ascl(q, k, queue[order], 0.2, t2, num, *KINDS[kind])
    torch.testing.assert_close(shuffled, ours.detach())
    _, c = neighbour_target(k, queue, t2, num)
    found = [loop_target(x, queue, t2, num, *KINDS[kind]) for x in k]
    torch.testing.assert_close(c, torch.tensor([y for _, y in found]).double())
    assert all(t[0] >= 1 / (1 + num) - 1e-12 for t, _ in found)


def test_several_shares_are_cut_at_one():
    """As in rows that have several copies of a key nearby."""
    q, k, queue = unit(3, 8), unit(3, 8, seed=1), unit(40, 8, seed=2)
    queue[5:8] = k[0]
    for num in (2, 5, 7):
        shares, _ = loop_target(k[0], queue, 0.05, num, False, True)
        assert (shares[6:9] == shares[0]).all() == (num > 4)
        ours = ascl(q, k, queue, 0.2, 0.05, num)
        truth = loop_ascl(q, k, queue, 0.2, 0.05, num, False, True)
        torch.testing.assert_close(ours, truth)


def test_confidence_of_a_flat_and_of_a_sharp_profile():
    equal = rows(*[(0.0, 1.0)] * 7)
    assert neighbour_target(K, equal, 0.1, 1)[1].item() == pytest.approx(0, abs=1e-12)
    assert neighbour_target(K, QUEUE, 1e-3, 1)[1].item() == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    q, k, queue = unit(3, 4), unit(3, 4, seed=1), unit(9, 4, seed=2)
    assert torch.autograd.gradcheck(
        lambda x: ascl(x, k, queue, 0.3, 0.2, 3, *KINDS[kind]), q.requires_grad_()
    )


@pytest.mark.parametrize("own", [False, True])
def test_nothing_of_the_size_of_all_similarities_is_stored(own):
    k, candidates = unit(128, 8).float(), unit(65_536, 8, seed=1).float()
    places = torch.arange(128) if own else None
    if own:
        candidates[:128] = k

    def call():
        neighbour_target(k, candidates, 0.05, 5, own=places)

    assert largest(call) <= 65_536 * 128 / 2


def test_no_key_is_its_own_neighbour():
    k = unit(5, 8)
    for kind, num in ((k_, n) for k_ in KINDS for n in (1, 3)):
        hard, adaptive = KINDS[kind]
        mean, c = neighbour_target(
            k, k, 0.3, num, hard=hard, adaptive=adaptive, own=torch.arange(5)
        )
        for i in range(5):
            others = torch.cat([k[:i], k[i + 1 :]])
            t, sure = loop_target(k[i], others, 0.3, num, hard, adaptive)
            torch.testing.assert_close(mean[i], t[0] * k[i] + t[1:] @ others)
            assert c[i].item() == pytest.approx(sure)


def test_ressl_by_hand():
    q = Q.clone().requires_grad_()
    mean, lse = attend(K, QUEUE, 2.0)
    loss = soft_nce(q, mean, QUEUE, 1.0)
    assert loss.item() == pytest.approx(0.916467, abs=1e-6)
    entropy = (lse - 2 * (K * mean).sum(1)).item()
    assert entropy == pytest.approx(0.623928, abs=1e-6)
    assert loss.item() - entropy == pytest.approx(0.292539, abs=1e-6)
    loss.backward()
    torch.testing.assert_close(q.grad, rows((-0.394372, 0.113875)), atol=1e-6, rtol=0)
    mean, _ = attend(K, QUEUE, 1 / 0.04)
    assert soft_nce(Q, mean, QUEUE, 0.1).item() == pytest.approx(0.184827, abs=1e-6)


# The methods


def features(seed=0):
    """Query and key as a step has them, in float64, N x 16."""
    q, k = unit(6, 16, seed=seed).requires_grad_(), unit(6, 16, seed=seed + 1)
    return {"embedding": q}, {"embedding": k}, q


@pytest.mark.parametrize("kind", KINDS)
def test_ascl_is_its_formula_on_the_queue(kind):
    hard, adaptive = KINDS[kind]
    head = dict(temperature=0.2, target_temperature=0.1, num_neighbours=3)
    model = double(build("ASCL", head=head | dict(hard=hard, adaptive=adaptive)))
    query, key, q = features()
    found = contrast(model, query, key)
    queue = model.negatives
    truth = loop_ascl(q, key["embedding"], queue, 0.2, 0.1, 3, hard, adaptive).mean()
    assert found["loss_instance"].item() == pytest.approx(truth.item(), abs=1e-12)
    (ours,) = torch.autograd.grad(found["loss_instance"], q)
    (exact,) = torch.autograd.grad(truth, q)
    torch.testing.assert_close(ours, exact)
    assert 0 < found["confidence"] < 1


def test_ressl_is_its_formula_on_the_queue():
    model = double(build("ReSSL"))
    query, key, q = features()
    found = contrast(model, query, key)["loss_instance"]
    rows_ = []
    for i in range(6):
        p = (key["embedding"][i] @ model.negatives.T / 0.04).softmax(0)
        log_q = (q[i] @ model.negatives.T / 0.2).log_softmax(0)
        rows_.append(-(p * log_q).sum())
    truth = torch.stack(rows_).mean()
    assert found.item() == pytest.approx(truth.item(), abs=1e-12)
    (ours,) = torch.autograd.grad(found, q)
    torch.testing.assert_close(ours, torch.autograd.grad(truth, q)[0])


def test_without_neighbours_ascl_is_moco():
    """Losses, gradients and queues of three steps."""
    moco = double(build("MoCo"))
    ours = double(build("ASCL", head=dict(temperature=0.2, num_neighbours=0)))
    for seed in range(3):
        inputs = [x.double() for x in views(8, seed)]
        for model in (moco, ours):
            model.zero_grad()
            model.found = model(inputs, samples(8), mode="loss")
            total(model.found).backward()
        torch.testing.assert_close(
            ours.found["loss_instance"], moco.found["loss_instance"], rtol=0, atol=1e-12
        )
        peers = dict(moco.named_parameters())
        for name, p in ours.named_parameters():
            if p.requires_grad:
                torch.testing.assert_close(
                    p.grad, peers[name].grad, rtol=1e-10, atol=1e-12
                )
    assert torch.equal(ours.negatives, moco.negatives)


def test_an_extra_negative_gets_no_share():
    """RegionCL's other part enters the softmax and not the label."""
    model = double(build("ASCL"))
    q, k, extra = unit(8, 16), unit(4, 16, seed=1), unit(8, 16, seed=2)
    for kind, head in (("ASCL", {}), ("MoCo", dict(num_neighbours=0))):
        model = double(build("ASCL", head=dict(temperature=0.2) | head))
        found = model.compare.pair(q, k, extra)
        mean, _ = model.compare.soften(k)
        queue = model.negatives
        truth = []
        for m in range(8):
            logits = torch.cat([k[m % 4, None], queue, extra[m, None]]) @ q[m] / 0.2
            truth.append(logits.logsumexp(0) - q[m] @ mean[m % 4] / 0.2)
        torch.testing.assert_close(found, torch.stack(truth).mean())
        if kind == "MoCo":
            moco = info_nce(q, k.repeat(2, 1), queue, 0.2, extra).mean()
            torch.testing.assert_close(found, moco)


def test_neighbours_on_byol_by_hand():
    t = rows((1.0, 0.0), (0.8, 0.6), (0.0, 1.0))
    p = rows((0.6, 0.8), (1.0, 0.0), (0.0, 1.0))
    found = [2 - 2 * (p * _mean(t, 1, 1)).sum(1)][0]
    wanted = torch.tensor([0.740099, 0.403566, 0.071650]).double()
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found.mean().item() == pytest.approx(0.405105, abs=1e-6)


def _mean(t, temperature, num):
    own = torch.arange(len(t))
    return neighbour_target(t, t, temperature, num, own=own)[0]


@pytest.mark.parametrize("base", ["BYOL", "SimSiam"])
def test_neighbours_as_a_term(base):
    """Against the similarities in the batch; without neighbours it is the base."""
    for num in (0, 2):
        given = term("Neighbours", num_neighbours=num, temperature=0.5)
        model = double(build_base(method(base, given)))
        inputs = images(5, dtype=torch.double)
        made = model.step(inputs)
        found = model.terms.neighbours(model, made)
        if num == 0:
            whole = model.compare(model, made)["instance"]
            assert found.item() == pytest.approx(whole.item(), abs=1e-12)
            continue
        truth = []
        for a, b in model.pairs:
            q, k = made.online[a]["embedding"], made.target[b]["embedding"]
            for i in range(5):
                others = torch.cat([k[:i], k[i + 1 :]])
                t, _ = loop_target(k[i], others, 0.5, num, False, True)
                cosines = [q[i] @ x for x in [k[i], *others]]
                if base == "BYOL":
                    cosines = [2 * x - 2 for x in cosines]
                row = sum(w * x for w, x in zip(t, cosines, strict=True))
                truth.append(-row / 5)
        truth = sum(truth) / (2 if base == "SimSiam" else 1)
        assert found.item() == pytest.approx(truth.item(), abs=1e-12)
        trained = [p for p in model.parameters() if p.requires_grad]
        ours = torch.autograd.grad(found, trained, retain_graph=True)
        exact = torch.autograd.grad(truth, trained)
        for x, y in zip(ours, exact, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "ASCL",
            dict(num_neighbours=65),
            "65 of a queue of 64 keys are looked for; raise",
        ),
        ("ASCL", dict(num_neighbours=1.5), "num_neighbours=1.5 must be a whole number"),
        ("ASCL", dict(num_neighbours=-1), "num_neighbours=-1 must be"),
        ("ASCL", dict(target_temperature=0), "target_temperature=0 is not a temp"),
        ("ASCL", dict(type="QueueSoftmax"), "NeighbourSoftmax, not by QueueSoftmax"),
        ("ReSSL", dict(type="QueueSoftmax"), "RelationSoftmax, not by QueueSoftmax"),
        ("ReSSL", dict(target_temperature=0.2), "must be below temperature=0.2"),
    ],
)
def test_senseless_heads_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        build(name, head=dict(temperature=0.2) | changes)


def test_senseless_bases_and_batches_are_refused():
    for base, kind in (("MoCo", "QueueSoftmax"), ("SimCLR", "BatchSoftmax")):
        with pytest.raises(ValueError, match=f"{base} compares by {kind}.*type='ASCL'"):
            MODELS.build(method(base, "Neighbours"))
    model = build_base(method("BYOL", term("Neighbours", num_neighbours=4)))
    with pytest.raises(
        ValueError, match=r"4 neighbours .* 3 other images of the batch"
    ):
        losses_on(model, images(4))
    model = build_base(method("BYOL", term("Neighbours", num_neighbours=1)))
    with pytest.raises(ValueError, match="among the 1 other images"):
        losses_on(model, images(2))
