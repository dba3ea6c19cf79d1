"""Soft targets, several own negatives and masked slots, against loops and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmssl_ext.models.losses import (
    attend,
    info_nce,
    queue_attention,
    queue_logsumexp,
    soft_nce,
)

from .loops import unit
from .shapes import largest
from .test_losses import path  # noqa: F401, a fixture

double = torch.float64
WEIGHTS = torch.linspace(0.5, 1.5, 5, dtype=double)  # rows apart


def rows(*vectors):
    return torch.tensor(vectors, dtype=double)


def loop_lse(q, queue, temperature, own=None, labels=None):
    """Log-sum-exp of every query over its own and the slots that it may see."""
    losses = []
    for n in range(len(q)):
        seen = [
            key
            for j, key in enumerate(queue)
            if labels is None or int(labels[0][n]) < 0 or labels[0][n] != labels[1][j]
        ]
        seen += [] if own is None else list(own[n])
        losses.append(sum((torch.dot(q[n], x) / temperature).exp() for x in seen).log())
    return torch.stack(losses)


def loop_cross_entropy(q, targets, candidates, temperature):
    """``- sum_j p_j log softmax_j``, entry by entry; candidates N x C x D."""
    losses = []
    for n in range(len(q)):
        logits = [torch.dot(q[n], c) / temperature for c in candidates[n]]
        z = sum(x.exp() for x in logits).log()
        losses.append(
            -sum(p * (x - z) for p, x in zip(targets[n], logits, strict=True))
        )
    return torch.stack(losses)


def both(functions, inputs, weights=WEIGHTS):
    """Values and gradients of two functions of the same leaves."""
    results = []
    for function in functions:
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        grads = torch.autograd.grad((value * weights).sum(), leaves)
        results.append((value.detach(), *grads))
    return results


def same(results):
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


LABELS = torch.tensor([0, 1, -1, 2, 9]), torch.arange(37) % 4 - 1


# --- soft targets


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_soft_targets_equal_the_loop(temperature, path):  # noqa: F811
    q, k, queue = unit(5, 16), unit(5, 16, seed=1), unit(37, 16, seed=2)
    own = unit(5, 3, 16, seed=3)
    targets = unit(5, 38, seed=4).abs()
    targets /= targets.sum(1, keepdim=True)
    candidates = torch.cat([k[:, None], queue.expand(5, 37, 16), own], 1)
    mean = (targets[:, None] @ candidates[:, :38])[:, 0]
    padded = torch.cat([targets, torch.zeros(5, 3)], 1)

    def ours(q):
        return soft_nce(q, mean, queue, temperature, own, positives=k)

    def loop(q):
        return loop_cross_entropy(q, padded, candidates, temperature)

    same(both((ours, loop), [q]))


def test_a_target_of_one_key_is_info_nce(path):  # noqa: F811
    k, queue, own = unit(5, 16, seed=1), unit(37, 16, seed=2), unit(5, 2, 16, seed=3)

    def soft(q):
        return soft_nce(q, k, queue, 0.2, own, positives=k, labels=LABELS)

    same(both((soft, lambda q: info_nce(q, k, queue, 0.2, own, LABELS)), [unit(5, 16)]))


ASCL = rows([0.6, 0.8]), rows([1.0, 0.0]), rows([0.8, 0.6], [0.0, 1.0], [-0.6, 0.8])


@pytest.mark.parametrize(
    ("n", "t1", "t2", "expected"),
    [
        (1, 0.5, 1.0, 1.569995),
        (5, 0.5, 1.0, 1.443184),
        (0, 0.5, 1.0, 1.624041),
        (1, 0.1, 0.05, 2.007287),
    ],
)
def test_ascl_by_hand(n, t1, t2, expected, path):  # noqa: F811
    q, k, queue = ASCL
    p = (k @ queue.T / t2).softmax(1)
    confidence = 1 + (p * p.log()).sum() / math.log(3)
    y = (n * confidence * p).clamp(max=1)
    mean = (k + y @ queue) / (1 + y.sum())
    if (n, t1) == (1, 0.5):
        assert mean[0].tolist() == pytest.approx([0.923956, 0.090812], abs=1e-6)
    loss = soft_nce(q, mean, queue, t1, positives=k)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("t_k", "t_q", "expected"), [(0.5, 1.0, 0.916467), (0.04, 0.1, 0.184827)]
)
def test_ressl_by_hand(t_k, t_q, expected, path):  # noqa: F811
    q, k, queue = ASCL
    q = q.clone().requires_grad_()
    loss = soft_nce(q, attend(k, queue, 1 / t_k)[0], queue, t_q)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    (grad,) = torch.autograd.grad(loss.sum(), q)
    if t_q == 1:
        assert grad[0].tolist() == pytest.approx([-0.394372, 0.113875], abs=1e-6)


def test_soft_targets_gradcheck(path):  # noqa: F811
    q, own = unit(3, 16), unit(3, 2, 16, seed=3)
    mean, queue, k = unit(3, 16, seed=1) / 2, unit(300, 16, seed=2), unit(3, 16, seed=4)
    labels = torch.tensor([0, 5, -1]), torch.arange(300) % 3
    assert torch.autograd.gradcheck(
        lambda q, own, k: soft_nce(
            q, mean, queue, 0.1, own, positives=k, labels=labels
        ),
        [x.clone().requires_grad_() for x in (q, own, k)],
    )


def test_targets_get_no_gradient():
    q, k, queue = ASCL
    with pytest.raises(ValueError, match="detach"):
        soft_nce(q, k.clone().requires_grad_(), queue, 0.2)


def test_soft_targets_of_several_queues(path):  # noqa: F811
    q, mean, queues = (unit(2, n, 16, seed=n) for n in (5, 5, 37))
    own = unit(2, 5, 2, 16, seed=3)
    loss = soft_nce(q, mean, queues, 0.1, own, labels=LABELS)
    for b in range(2):
        alone = soft_nce(q[b], mean[b], queues[b], 0.1, own[b], labels=LABELS)
        torch.testing.assert_close(loss[b], alone)


# --- several negatives of a row's own


def test_several_own_negatives_equal_the_loop(path):  # noqa: F811
    q, k, queue = unit(5, 16), unit(5, 16, seed=1), unit(37, 16, seed=2)

    def loop(q, k, own):
        parts = torch.cat([k[:, None], own], 1)
        return loop_lse(q, queue, 0.1, parts) - (q * k).sum(1) / 0.1

    def ours(q, k, own):
        return info_nce(q, k, queue, 0.1, own)

    same(both((ours, loop), [q, k, unit(5, 4, 16, seed=3)]))
    none = torch.empty(5, 0, 16, dtype=double)
    torch.testing.assert_close(ours(q, k, none), loop(q, k, none))


MOCHI = (
    rows([1.0, 0.0]),
    rows([0.8, 0.6]),
    rows([0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.6, -0.8]),
)
PAIR, HARDEST, MIXED = [0.155963, 0.987763], [1.0, 0.0], [0.845489, 0.533993]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], 0.562012),
        ([PAIR], 0.584529),
        ([HARDEST], 1.497943),
        ([MIXED], 1.101802),
        ([PAIR, MIXED], 1.114989),
    ],
)
def test_mochi_by_hand(own, expected, path):  # noqa: F811
    q, k, queue = MOCHI
    q = q.clone().requires_grad_()
    negatives = torch.tensor([own], dtype=double).view(1, len(own), 2)
    loss = info_nce(q, k, queue, 0.2, negatives)
    assert loss.item() == pytest.approx(expected, abs=2e-6)
    (grad,) = torch.autograd.grad(loss.sum(), q)
    by_hand = {0: [-0.461825, -1.237612], 2: [-0.214210, -0.822384]}
    if len(own) in by_hand:
        assert grad[0].tolist() == pytest.approx(by_hand[len(own)], abs=5e-6)


@pytest.mark.parametrize("shape", [(5, 3, 8), (4, 3, 16), (3, 16)])
def test_own_negatives_must_fit(shape):
    q, k, queue = unit(5, 16), unit(5, 16, seed=1), unit(37, 16, seed=2)
    with pytest.raises(ValueError, match="N x S x D"):
        info_nce(q, k, queue, 0.1, torch.zeros(shape, dtype=double))


def test_own_negatives_are_not_rounded_by_autocast(path):  # noqa: F811
    q, k, queue = (unit(n, 16, seed=n).float() for n in (5, 6, 37))
    own = unit(5, 4, 16, seed=3).float()
    exact = info_nce(q, k[:5], queue, 0.05, own)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(q, k[:5], queue, 0.05, own), exact)


# --- slots of a row's own label


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_masked_slots_equal_the_loop(temperature, path):  # noqa: F811
    q, queue = unit(5, 16), unit(37, 16, seed=2)
    functions = (
        lambda q: queue_logsumexp(q, queue, temperature, LABELS),
        lambda q: loop_lse(q, queue, temperature, labels=LABELS),
    )
    same(both(functions, [q]))


IFND = rows([1.0, 0.0]), rows([0.8, 0.6])
IFND_QUEUE = rows([0.6, 0.8], [0.8, -0.6], [0.0, 1.0], [-1.0, 0.0])


@pytest.mark.parametrize(
    ("anchor", "slots", "expected"),
    [
        (7, (7, 3, 7, -1), 0.693209),
        (-1, (7, 3, 7, -1), 0.869752),
        (-7, (-7, 3, 7, -1), 0.869752),
        (5, (7, 3, 7, -1), 0.869752),
        (7, (7, 7, 7, 7), 0.0),
    ],
)
def test_ifnd_by_hand(anchor, slots, expected, path):  # noqa: F811
    q = IFND[0].clone().requires_grad_()
    labels = torch.tensor([anchor]), torch.tensor(slots)
    loss = info_nce(q, IFND[1], IFND_QUEUE, 0.2, labels=labels)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    (grad,) = torch.autograd.grad(loss.sum(), q)
    assert grad.isfinite().all()
    assert (grad == 0).all() == (expected == 0)


def test_attraction_by_hand(path):  # noqa: F811
    """False negatives as further positives, with the whole denominator."""
    q, k = IFND
    mean = (k + IFND_QUEUE[:1] + IFND_QUEUE[2:3]) / 3
    loss = soft_nce(q, mean, IFND_QUEUE, 0.2, positives=k)
    assert loss.item() == pytest.approx(2.536418, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, double])
def test_a_row_without_a_slot(dtype, path):  # noqa: F811
    q, queue = unit(3, 16).to(dtype), unit(300, 16, seed=2).to(dtype)
    slots = torch.zeros(300, dtype=torch.long)
    labels = torch.tensor([0, 1, -1]), slots
    for temperature in (1e-3, 0.2):
        leaf = q.clone().requires_grad_()
        lse = queue_logsumexp(leaf, queue, temperature, labels)
        assert lse[0] == -math.inf
        truth = (q @ queue.T / temperature).logsumexp(1)
        torch.testing.assert_close(lse[1:], truth[1:])
        alone = info_nce(leaf, q.flip(0), queue, temperature, labels=labels)
        soft = soft_nce(leaf, 0 * q, queue, temperature, labels=labels)
        assert alone[0] == soft[0] == 0
        for loss in (lse[1:], alone, soft):
            assert loss.isfinite().all()
            (grad,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=True)
            assert (grad[0] == 0).all() and grad.isfinite().all()
    slots[200] = 1  # the first blocks are left out as a whole
    lse = queue_logsumexp(q, queue, 1e-3, labels)
    torch.testing.assert_close(lse[0], q[0] @ queue[200] / 1e-3)


@pytest.mark.parametrize(("rows_", "slots"), [(4, 37), (5, 36)])
def test_labels_must_fit(rows_, slots):
    labels = torch.zeros(rows_).long(), torch.zeros(slots).long()
    with pytest.raises(ValueError, match="-1 where it is unknown"):
        queue_logsumexp(unit(5, 16), unit(37, 16, seed=2), 0.1, labels)


def test_full_size_masked():
    """fp32 at N = 64, K = 65,536 against fp64; no tensor of N x K elements."""
    q = unit(64, 32).float().requires_grad_()
    k, queue = unit(64, 32, seed=1).float(), unit(65536, 32, seed=2).float()
    labels = torch.arange(64) % 16, torch.arange(65536) % 32
    negatives = unit(64, 4, 32, seed=3).float()
    queue_attention.form_of(q[None], queue[None])  # what is checked only once

    def ours():
        loss = info_nce(q, k, queue, 0.1, negatives, labels)
        return loss, torch.autograd.grad(loss.mean(), q)[0]

    found = []
    assert largest(lambda: found.extend(ours())) <= queue.numel()
    logits = q.double() @ queue.double().T / 0.1
    logits = logits.masked_fill(labels[0][:, None] == labels[1], -math.inf)
    own = (negatives.double() @ q.double()[..., None])[..., 0] / 0.1
    positive = (q * k).double().sum(1, keepdim=True) / 0.1
    truth = torch.cat([positive, own, logits], 1).logsumexp(1) - positive[:, 0]
    (grad,) = torch.autograd.grad(truth.mean(), q)
    assert (found[0] - truth).abs().max() < 1e-5
    assert (found[1] - grad).norm() / grad.norm() < 1e-5
