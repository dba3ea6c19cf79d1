"""Losses against loop-written references, hand-computed cases and gradcheck."""

import math
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


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=1)


def loop_info_nce(q, k, queue, temperature):
    """Equation 1 of MoCo, one query and one negative at a time."""
    losses = []
    for n in range(len(q)):
        positive = sum(a * b for a, b in zip(q[n], k[n], strict=True)) / temperature
        total = positive.exp()
        for negative in queue:
            total = (
                total
                + (
                    sum(a * b for a, b in zip(q[n], negative, strict=True))
                    / temperature
                ).exp()
            )
        losses.append(total.log() - positive)
    return torch.stack(losses)


def loop_profile(x, queue, temperature):
    exps = [(torch.dot(x, negative) / temperature).exp() for negative in queue]
    return [e / sum(exps) for e in exps]


def loop_consistency(q, k, queue, temperature):
    """The two KL terms of CO2, entry by entry, in their explicit form."""
    losses = []
    for n in range(len(q)):
        profile_q = loop_profile(q[n], queue, temperature)
        profile_p = loop_profile(k[n], queue, temperature)
        assert len(profile_q) == len(queue)  # the positive is no entry
        assert float(sum(profile_q).detach()) == pytest.approx(1)
        kl_pq = sum(
            p * (p.log() - s.log()) for p, s in zip(profile_p, profile_q, strict=True)
        )
        kl_qp = sum(
            s * (s.log() - p.log()) for p, s in zip(profile_p, profile_q, strict=True)
        )
        losses.append(kl_pq / 2 + kl_qp / 2)
    return torch.stack(losses)


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
@pytest.mark.parametrize("temperature", [0.04, 0.2, 1.0])
def test_value_and_gradient_equal_the_loop(loss, temperature, path):
    reference = {
        info_nce: loop_info_nce,
        queue_consistency: loop_consistency,
    }[loss]
    q, k, queue = unit(5, 16), unit(5, 16, seed=1), unit(37, 16, seed=2)
    weights = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)  # rows apart
    results = []
    for function in (loss, reference):
        leaf = q.clone().requires_grad_()
        value = function(leaf, k, queue, temperature)
        (grad,) = torch.autograd.grad(value @ weights, leaf)
        results.append((value.detach(), grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
def test_gradcheck(loss, path):
    q = unit(3, 16).requires_grad_()
    k, queue = unit(3, 16, seed=1), unit(300, 16, seed=2)
    assert torch.autograd.gradcheck(lambda x: loss(x, k, queue, 0.1), q)


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


@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
def test_full_size_equals_the_naive_form(loss, path):
    # fp32 at N=256, K=65,536 against the same sums in fp64.
    q = normalize(unit(256, 128) + 0.5 * unit(1, 128, seed=3), dim=1)
    k = normalize(q + 0.3 * unit(256, 128, seed=1), dim=1)
    queue = unit(65536, 128, seed=2)
    temperature = {info_nce: 0.2, queue_consistency: 0.05}[loss]
    results = []
    for function, dtype in ((loss, torch.float32), (naive, torch.float64)):
        leaf = q.to(dtype).requires_grad_()
        args = (leaf, k.to(dtype), queue.to(dtype), temperature)
        value = function(loss, *args) if function is naive else function(*args)
        value.mean().backward()
        results.append((value.detach().double(), leaf.grad.double()))
    for ours, truth in zip(*results, strict=True):
        assert float((ours - truth).norm() / truth.norm()) < 1e-5


@pytest.mark.parametrize(("rows", "length"), [(800, 512), (800, 510), (7, 512)])
def test_segments_of_the_queue_are_merged_exactly(rows, length):
    segments = queue_attention._segments(1, rows, length, on_gpu=False)
    assert segments == (4 if (rows, length) == (800, 512) else 1)
    q, queue = unit(rows, 16), unit(length, 16, seed=2)
    o, lse = queue_attention.attend(q, queue, 20.0)
    logits = 20 * q @ queue.T
    torch.testing.assert_close(lse, logits.logsumexp(1))
    torch.testing.assert_close(o, logits.softmax(1) @ queue)


def test_info_nce_hand_case(path):
    assert info_nce(**HAND, temperature=0.2).item() == pytest.approx(0.479104, abs=1e-6)


def test_info_nce_of_equal_logits_is_log_k_plus_1(path):
    q = unit(4, 16)
    queue = q[:1].expand(65536, 16)
    loss = info_nce(q[:1], q[:1], queue, 0.2)
    assert loss.item() == pytest.approx(math.log(65537), abs=1e-6)
    assert math.log(65537) == pytest.approx(11.0904, abs=1e-4)


def test_info_nce_of_a_perfect_query(path):
    q = torch.eye(1, 16)
    queue = torch.eye(16)[1:2].expand(65536, 16)
    assert info_nce(q, q, queue, 0.2).item() == pytest.approx(6.0926, abs=1e-4)


def test_info_nce_of_random_vectors_starts_near_its_known_value():
    loss = info_nce(
        unit(512, 128), unit(512, 128, seed=1), unit(65536, 128, seed=2), 0.2
    )
    assert loss.mean().item() == pytest.approx(11.19, abs=0.05)


def test_info_nce_trains_the_key_where_it_has_a_gradient(path):
    k = HAND["k"].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: info_nce(HAND["q"], x, HAND["queue"], 0.2), k
    )


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


def test_consistency_invariants(path):
    q, k, queue = unit(6, 16), unit(6, 16, seed=1), unit(50, 16, seed=2)

    def loss(q, k, queue, temperature=0.1):
        return queue_consistency(q, k, queue, temperature)

    base = loss(q, k, queue)
    assert (base > 0).all() and (base <= 2 / 0.1).all()
    torch.testing.assert_close(loss(k, q, queue), base)  # symmetric
    torch.testing.assert_close(loss(q, k, queue.flip(0)), base)  # order of the queue
    torch.testing.assert_close(loss(q, k, queue.repeat(2, 1)), base)  # duplicates
    assert loss(q, k, queue, temperature=1e4).max() < 1e-7
    doubled = loss(q.repeat(2, 1), k.repeat(2, 1), queue)
    torch.testing.assert_close(doubled.mean(), base.mean())

    leaf = q.clone().requires_grad_()
    same = loss(leaf, q, queue)
    same.sum().backward()
    assert float(same.detach().abs().max()) < 1e-12
    assert float(leaf.grad.abs().max()) < 1e-12


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


def test_feature_sizes_must_agree():
    with pytest.raises(ValueError, match="feat_dim"):
        info_nce(unit(2, 16), unit(2, 16), unit(8, 32), 0.2)


def groups(*shape, seed=0):
    """Unit rows, B x N x 16."""
    return unit(math.prod(shape), 16, seed=seed).view(*shape, 16)


def loop_info_nce_with_own(q, k, queue, temperature, negatives):
    """Each query with the queue and one negative of its own, one pair at a time."""
    rows = [
        loop_info_nce(q[n : n + 1], k[n : n + 1], [*queue, negatives[n]], temperature)
        for n in range(len(q))
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("temperature", [0.04, 0.2, 1.0])
def test_own_negatives_equal_the_loop(temperature, path):
    inputs = [unit(5, 16, seed=seed) for seed in (0, 1, 3)]
    queue = unit(37, 16, seed=2)
    weights = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    results = []
    for function in (info_nce, loop_info_nce_with_own):
        q, k, own = (x.clone().requires_grad_() for x in inputs)
        value = function(q, k, queue, temperature, negatives=own)
        grads = torch.autograd.grad(value @ weights, (q, k, own))
        results.append((value.detach(), *grads))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


def test_own_negatives_gradcheck(path):
    leaves = [unit(3, 16, seed=seed).requires_grad_() for seed in (0, 1, 3)]
    queue = unit(300, 16, seed=2)
    assert torch.autograd.gradcheck(
        lambda q, k, own: info_nce(q, k, queue, 0.1, own), leaves
    )


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


@pytest.mark.parametrize("own", [False, True], ids=["queue", "own_negatives"])
@pytest.mark.parametrize("shape", [(3, 5, 37), (2, 1, 8), (1, 4, 300)])
def test_several_queues_at_once_equal_the_loop(shape, own, path):
    batch, rows, length = shape
    inputs = [groups(batch, rows, seed=seed) for seed in (0, 1, 3)]
    queues = groups(batch, length, seed=2)
    weights = torch.linspace(0.5, 1.5, batch * rows).double().view(batch, rows)

    def loop(q, k, queues, temperature, negatives):
        if negatives is None:
            parts = zip(q, k, queues, strict=True)
            return torch.stack([loop_info_nce(*x, temperature) for x in parts])
        parts = zip(q, k, queues, negatives, strict=True)
        return torch.stack(
            [loop_info_nce_with_own(*x, temperature, n) for *x, n in parts]
        )

    results = []
    for function in (info_nce, loop):
        leaves = [x.clone().requires_grad_() for x in inputs[: 2 + own]]
        value = function(*leaves[:2], queues, 0.1, leaves[2] if own else None)
        assert value.shape == (batch, rows)
        results.append(
            (value.detach(), *torch.autograd.grad((value * weights).sum(), leaves))
        )
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


def test_several_queues_gradcheck(path):
    q, k = (groups(2, 3, seed=seed).requires_grad_() for seed in (0, 1))
    queues = groups(2, 300, seed=2)
    assert torch.autograd.gradcheck(lambda q, k: info_nce(q, k, queues, 0.1), (q, k))


def test_segments_of_several_queues_are_merged_exactly():
    assert queue_attention._segments(2, 800, 512, on_gpu=False) == 4
    q, queues = groups(2, 800), groups(2, 512, seed=2)
    o, lse = queue_attention.attend(q, queues, 20.0)
    for b in range(2):
        logits = 20 * q[b] @ queues[b].T
        torch.testing.assert_close(lse[b], logits.logsumexp(1))
        torch.testing.assert_close(o[b], logits.softmax(1) @ queues[b])


@pytest.mark.parametrize(
    "queues", [groups(3, 8), groups(8), unit(16, 32).view(2, 8, 32), groups(2, 0)]
)
def test_queues_must_fit_the_queries(queues, path):
    with pytest.raises(ValueError, match="feat_dim"):
        info_nce(groups(2, 4), groups(2, 4, seed=1), queues, 0.2)


def loop_match(query, key):
    """The key cell of the largest cosine, one pair at a time."""
    match = []
    for cells, others in zip(query.tolist(), key.tolist(), strict=True):
        match.append([])
        for cell in cells:
            similarity = [
                sum(x * y for x, y in zip(cell, other, strict=True)) for other in others
            ]
            match[-1].append(similarity.index(max(similarity)))
    return match


@pytest.mark.parametrize(("own", "others"), [(7, 7), (5, 9), (9, 1)])
def test_match_and_take_equal_the_loop(own, others):
    query, key = groups(4, own).requires_grad_(), groups(4, others, seed=1)
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


def test_every_image_is_matched_within_itself():
    query = groups(1, 6).expand(3, 6, 16)
    orders = torch.stack([torch.arange(6), torch.arange(6).flip(0), torch.arange(6)])
    key = take_cells(query, orders)
    assert torch.equal(match_cells(query, key), orders)  # flips are their own inverse


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loss", [info_nce, queue_consistency])
@pytest.mark.parametrize("rows", [3, 256])
def test_gpu_equals_cpu(loss, rows):
    q, k, queue = unit(rows, 128), unit(rows, 128, seed=1), unit(65536, 128, seed=2)
    assert queue_attention._agrees("fused", "cuda", torch.float32, 128)
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        leaf = q.to(device, dtype).requires_grad_()
        value = loss(leaf, k.to(device, dtype), queue.to(device, dtype), 0.1)
        value.mean().backward()
        results.append((value.detach().cpu().double(), leaf.grad.cpu().double()))
    for ours, truth in zip(*results, strict=True):
        assert float((ours - truth).norm() / truth.norm()) < 1e-4
