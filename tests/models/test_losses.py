"""Losses against loop-written references, hand-computed cases and gradcheck."""

import math
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from mmssl_ext.models.algorithms import Step
from mmssl_ext.models.comparisons import QueueSoftmax
from mmssl_ext.models.losses import (
    info_nce,
    match_cells,
    queue_attention,
    queue_consistency,
    take_cells,
)
from mmssl_ext.models.terms import Consistency

from . import loops
from .loops import unit

HAND = dict(
    q=torch.tensor([[0.6, 0.8]], dtype=torch.float64),
    k=torch.tensor([[0.8, 0.6]], dtype=torch.float64),
    queue=torch.eye(2, dtype=torch.float64),
)


@pytest.fixture(params=["fused", "chunked"])
def path(request, monkeypatch):
    """Run a test on the fused attention and on the chunked fallback."""
    if request.param == "fused":
        assert queue_attention._agrees("fused", "cpu", torch.float32, 16)
    else:
        monkeypatch.setattr(queue_attention, "_agrees", lambda *_: False)
        monkeypatch.setattr(queue_attention, "_BLOCK_ELEMENTS", {"cpu": 128 * 8})
    return request.param


def loop_info_nce(q, k, queue, temperature):
    """One query and one negative at a time."""
    rows = zip(q, k, strict=True)
    return torch.stack([loops.info_nce(*row, queue, temperature) for row in rows])


def loop_profile(x, queue, temperature):
    exps = [(torch.dot(x, negative) / temperature).exp() for negative in queue]
    return [e / sum(exps) for e in exps]


def loop_consistency(q, k, queue, temperature):
    """The two KL terms of CO2, entry by entry, in their explicit form."""
    losses = []
    for n in range(len(q)):
        profile_q = loop_profile(q[n], queue, temperature)
        profile_p = loop_profile(k[n], queue, temperature)
        pairs = list(zip(profile_p, profile_q, strict=True))
        kl_pq = sum(p * (p.log() - s.log()) for p, s in pairs)
        kl_qp = sum(s * (s.log() - p.log()) for p, s in pairs)
        losses.append(kl_pq / 2 + kl_qp / 2)
    return torch.stack(losses)


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_value_and_gradient_equal_the_loop(loss, temperature, path):
    loop = {info_nce: loop_info_nce, queue_consistency: loop_consistency}[loss]
    args = unit(5, 16), unit(5, 16, seed=1), unit(37, 16, seed=2), temperature
    found, truth = (value_and_gradient(function, *args) for function in (loss, loop))
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("loss", "leaves"),
    [
        (lambda q, k, queue: info_nce(q, k, queue, 0.1), "qk"),
        (lambda q, k, queue: queue_consistency(q, k, queue, 0.1), "q"),
        (lambda q, k, queue: info_nce(q, k, queue, 0.1, k.flip(0)), "qk"),
    ],
    ids=["info_nce", "consistency", "own negatives"],
)
def test_gradcheck(loss, leaves, path):
    q, k, queue = unit(3, 16), unit(3, 16, seed=1), unit(300, 16, seed=2)
    inputs = [x.requires_grad_(n in leaves) for n, x in zip("qk", (q, k), strict=True)]
    assert torch.autograd.gradcheck(lambda q, k: loss(q, k, queue), inputs)


def naive(loss, q, k, queue, temperature):
    """The textbook forms over materialised N x K logits."""
    negatives = q @ queue.T / temperature
    if loss is info_nce:
        positive = (q * k).sum(1, keepdim=True) / temperature
        logits = torch.cat([positive, negatives], dim=1)
        return torch.nn.functional.cross_entropy(
            logits, torch.zeros(len(q), dtype=torch.long), reduction="none"
        )
    log_q = negatives.log_softmax(1)
    log_p = (k @ queue.T / temperature).log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1) / 2


@cache
def full_size(loss):
    """fp64 inputs of N=256, K=65,536, and value and gradient over all the logits."""
    q = normalize(unit(256, 128) + 0.5 * unit(1, 128, seed=3), dim=1)
    k = normalize(q + 0.3 * unit(256, 128, seed=1), dim=1)
    inputs = q, k, unit(65536, 128, seed=2)
    return inputs, value_and_gradient(partial(naive, loss), *inputs, TEMPERATURES[loss])


def value_and_gradient(function, q, *args):
    leaf = q.clone().requires_grad_()
    value = function(leaf, *args)
    weights = torch.linspace(0.5, 1.5, len(q)).to(value)  # rows apart
    return value.detach(), *torch.autograd.grad(value @ weights, leaf)


TEMPERATURES = {info_nce: 0.2, queue_consistency: 0.05}


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
def test_full_size_equals_the_naive_form(loss, path):
    inputs, truths = full_size(loss)
    found = value_and_gradient(loss, *(x.float() for x in inputs), TEMPERATURES[loss])
    for ours, truth in zip(found, truths, strict=True):
        assert float((ours.double() - truth).norm() / truth.norm()) < 1e-5


@pytest.mark.parametrize(
    ("batch", "rows", "length"),
    [(1, 800, 512), (1, 800, 510), (1, 7, 512), (2, 800, 512)],
)
def test_segments_of_the_queue_are_merged_exactly(batch, rows, length):
    segments = queue_attention._segments(batch, rows, length, on_gpu=False)
    assert segments == (4 if (rows, length) == (800, 512) else 1)
    q, queues = unit(batch, rows, 16), unit(batch, length, 16, seed=2)
    o, lse = queue_attention.attend(q, queues, 20.0)
    logits = 20 * q @ queues.mT
    torch.testing.assert_close(lse, logits.logsumexp(2))
    torch.testing.assert_close(o, logits.softmax(2) @ queues)


def test_info_nce_by_hand(path):
    assert info_nce(**HAND, temperature=0.2).item() == pytest.approx(0.479104, abs=1e-6)
    same = unit(1, 16)
    loss = info_nce(same, same, same.expand(65536, 16), 0.2)
    assert loss.item() == pytest.approx(math.log(65537), abs=1e-6)
    perfect, others = torch.eye(16)[:1], torch.eye(16)[1:2].expand(65536, 16)
    loss = info_nce(perfect, perfect, others, 0.2)
    assert loss.item() == pytest.approx(6.0926, abs=1e-4)


def test_info_nce_of_random_vectors_starts_near_its_known_value():
    q, k, queue = unit(512, 128), unit(512, 128, seed=1), unit(65536, 128, seed=2)
    loss = info_nce(q.float(), k.float(), queue.float(), 0.2)
    assert loss.mean().item() == pytest.approx(11.19, abs=0.05)


@pytest.mark.parametrize(
    ("q", "k", "temperature", "expected"),
    [
        ((0.6, 0.8), (0.8, 0.6), 0.2, 0.462117),
        ((0.6, 0.8), (0.8, 0.6), 0.05, 3.856110),
        ((1.0, 0.0), (0.0, 1.0), 1.0, 0.462117),
        ((1.0, 0.0), (0.0, 1.0), 0.5, 1.523188),
    ],
)
def test_consistency_hand_cases(q, k, temperature, expected, path):
    q, k = (torch.tensor([x], dtype=torch.float64) for x in (q, k))
    loss = queue_consistency(q, k, HAND["queue"], temperature)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("alpha", "total"), [(0.3, 0.617740), (10, 5.100276)])
def test_total_of_comparison_and_term_by_hand(alpha, total):
    compare = comparison(HAND["queue"])
    term = Consistency(temperature=0.2)
    features = {name: {0: {"embedding": HAND[name]}} for name in ("q", "k")}
    step = Step({}, None, None, features["q"], features["k"], {})
    method = SimpleNamespace(
        pairs=((0, 0),), over_pairs=lambda x: x[0], negatives=compare.negatives
    )
    loss = compare(method, step)["instance"] + alpha * term(method, step)
    assert loss.item() == pytest.approx(total, abs=1e-6)


def comparison(queue):
    """MoCo's, with this queue."""
    compare = QueueSoftmax(temperature=0.2, length=len(queue))
    target = SimpleNamespace(dim=None)
    compare.attach(SimpleNamespace(dim=queue.shape[1], target=target))
    compare.queue.keys = queue
    return compare


def test_consistency_gradient_by_hand(path):
    # With the queue an identity, q equals tau * z, so dL/dz = tau * dL/dq.
    q = HAND["q"].clone().requires_grad_()
    queue_consistency(q, HAND["k"], HAND["queue"], 0.2).sum().backward()
    expected = torch.tensor([[-0.427671, 0.427671]], dtype=torch.float64)
    torch.testing.assert_close(0.2 * q.grad, expected, atol=1e-6, rtol=0)


def test_consistency_refuses_to_train_the_target():
    with pytest.raises(ValueError, match="detach"):
        queue_consistency(
            HAND["q"], HAND["k"].clone().requires_grad_(), HAND["queue"], 0.2
        )


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
def test_queue_may_be_overwritten_before_backward(loss, path):
    q, k = unit(4, 16), unit(4, 16, seed=1)
    grads = []
    for overwrite in (False, True):
        queue, leaf = unit(64, 16, seed=2), q.clone().requires_grad_()
        value = loss(leaf, k, queue, 0.1).sum()
        if overwrite:
            queue.normal_()
        value.backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
def test_half_precision_is_accumulated_in_fp32(loss, path):
    q, k, queue = unit(8, 16), unit(8, 16, seed=1), unit(4096, 16, seed=2)
    exact = loss(q, k, queue, 0.05)
    leaf = q.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(leaf, k.bfloat16(), queue.float(), 0.05)
    value.sum().backward()
    assert value.dtype == torch.float32 and leaf.grad.dtype == torch.bfloat16
    # What remains is the rounding of the bf16 inputs themselves.
    rounded = loss(leaf.detach().double(), k.bfloat16().double(), queue, 0.05)
    torch.testing.assert_close(value.double(), rounded, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(value.double(), exact, rtol=0.1, atol=0.1)


def test_small_temperature_does_not_underflow(path):
    q = torch.eye(1, 16)
    queue = -q.expand(1000, 16)  # every negative is opposite: logits of -1000
    loss = info_nce(q, -q, queue, 1e-3)
    assert loss.item() == pytest.approx(math.log(1001), rel=1e-5)


@pytest.mark.parametrize("form", ["fused", "onednn"])
def test_a_fast_form_is_not_trusted_when_it_differs(form, monkeypatch):
    agrees = queue_attention._agrees.__wrapped__
    assert agrees(form, "cpu", torch.float32, 32)
    fast = queue_attention._FORMS[form]

    def wrong(*args):
        o, lse = fast(*args)
        return o, lse + 0.01

    monkeypatch.setitem(queue_attention._FORMS, form, wrong)
    assert not agrees(form, "cpu", torch.float32, 32)


@pytest.mark.parametrize("rows", [16, 130])
def test_fast_forms_can_be_switched_off(rows, monkeypatch):
    def used(*args):
        raise AssertionError("a fast form was taken")

    q, queue = unit(rows, 16).float(), unit(256, 16).float()
    assert queue_attention._agrees("fused", "cpu", torch.float32, 16)
    assert queue_attention._agrees("onednn", "cpu", torch.float32, 16)
    expected = queue_attention.attend(q, queue, 5.0)
    for name in ("fused", "onednn"):
        monkeypatch.setitem(queue_attention._FORMS, name, used)
    # The measured rule names the chunked form for many rows on CPUs with AVX2 alone.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(AssertionError, match="fast form"):
        queue_attention.attend(q, queue, 5.0)
    queue_attention.use_fused(False)
    try:
        found = queue_attention.attend(q, queue, 5.0)
    finally:
        queue_attention.use_fused(True)
    torch.testing.assert_close(found, expected)


def test_several_queues_are_those_one_by_one(path):
    q, k, queues = (unit(3, n, 16, seed=n) for n in (5, 5, 37))
    own = unit(3, 5, 16, seed=4)
    for negatives in (None, own):
        loss = info_nce(q, k.flip(1), queues, 0.1, negatives)
        for b in range(3):
            mine = None if negatives is None else own[b]
            alone = info_nce(q[b], k[b].flip(0), queues[b], 0.1, mine)
            torch.testing.assert_close(loss[b], alone, rtol=1e-9, atol=1e-11)


def test_own_negatives_by_hand(path):
    # Logits: positive 4.8, queue 3 and 4, its own (1, 0) . (0.6, 0.8) / 0.2 = 3.
    own = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = info_nce(**HAND, temperature=0.2, negatives=own)
    assert loss.item() == pytest.approx(0.576572, abs=1e-6)
    # Sent through the comparison, and as good as one more key in the queue.
    queue = torch.cat([HAND["queue"], own])
    pair = comparison(HAND["queue"]).pair(HAND["q"], HAND["k"], own)
    torch.testing.assert_close(pair, loss[0])
    torch.testing.assert_close(info_nce(HAND["q"], HAND["k"], queue, 0.2), loss)


@pytest.mark.parametrize(
    "queues", [unit(3, 8, 16), unit(8, 16), unit(2, 8, 32), unit(2, 0, 16)]
)
def test_queues_must_fit_the_queries(queues, path):
    with pytest.raises(ValueError, match="feat_dim"):
        info_nce(unit(2, 4, 16), unit(2, 4, 16, seed=1), queues, 0.2)


def loop_match(query, key):
    """The key cell of the largest cosine, one pair at a time."""
    match = []
    for cells, others in zip(query.tolist(), key.tolist(), strict=True):
        match.append([])
        for cell in cells:
            similarity = [loops.dot(cell, other) for other in others]
            match[-1].append(similarity.index(max(similarity)))
    return match


@pytest.mark.parametrize(("own", "others"), [(7, 7), (5, 9), (9, 1)])
def test_match_and_take_equal_the_loop(own, others):
    query, key = unit(4, own, 16).requires_grad_(), unit(4, others, 16, seed=1)
    match = match_cells(query, key)
    expected = loop_match(query, key)
    assert match.tolist() == expected and not match.requires_grad
    if others > 1:
        assert any(len(set(m)) < own for m in expected)  # some key cells twice

    cells = torch.randn(4, 3, others).double().transpose(1, 2).requires_grad_()
    taken = take_cells(cells, match)
    for n in range(4):
        for a in range(own):
            assert torch.equal(taken[n, a], cells[n, expected[n][a]])
    weights = torch.randn(4, own, 3).double()
    (taken * weights).sum().backward()
    truth = torch.zeros(4, others, 3).double()
    for n in range(4):
        for a in range(own):
            truth[n, expected[n][a]] += weights[n, a]
    torch.testing.assert_close(cells.grad, truth)


def test_match_by_hand():
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]]])
    key = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    assert match_cells(query[:, :2], key).tolist() == [[1, 0]]  # crossed
    # One-directional: the first key cell serves three; a cell need not be like any.
    assert match_cells(query, key).tolist() == [[1, 0, 0, 0]]
    assert match_cells(query, key.repeat(1, 2, 1)).tolist() == [[1, 0, 0, 0]]  # ties
    taken = take_cells(
        torch.tensor([[[10.0, 11.0], [20.0, 21.0]]]), match_cells(query, key)
    )
    assert taken.tolist() == [[[20, 21], [10, 11], [10, 11], [10, 11]]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
@pytest.mark.parametrize("rows", [3, 256])
def test_gpu_equals_cpu(loss, rows):
    inputs = unit(rows, 128), unit(rows, 128, seed=1), unit(65536, 128, seed=2)
    assert queue_attention._agrees("fused", "cuda", torch.float32, 128)
    truths = value_and_gradient(loss, *inputs, 0.1)
    found = value_and_gradient(loss, *(x.cuda().float() for x in inputs), 0.1)
    for ours, truth in zip(found, truths, strict=True):
        assert float((ours.cpu().double() - truth).norm() / truth.norm()) < 1e-4
