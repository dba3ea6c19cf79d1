"""Top-k over a queue against a loop: values, places, ties, masks, memory."""

from __future__ import annotations

import sys

import pytest
import torch

from mmssl_ext.models.losses import queue_attention, queue_topk

from .loops import dot, unit
from .shapes import largest

module = sys.modules[queue_topk.__module__]  # its name is the function's, too


@pytest.fixture(params=["whole", "blocks"], autouse=True)
def blocks(request, monkeypatch):
    """Queues of one block, and of many small ones with a rest."""
    if request.param == "blocks":
        monkeypatch.setattr(module, "_ROWS", 3)
        monkeypatch.setattr(module, "_ELEMENTS", {"cpu": 3 * 24})
    return request.param


def loop_topk(q, queue, k, labels=None):
    """Sort all slots of one query at a time: larger first, then earlier first."""
    values, places = [], []
    for n, row in enumerate(q.tolist()):
        similarity = [dot(row, key) for key in queue.tolist()]
        for j in range(len(queue)):
            if labels and 0 <= labels[0][n] == labels[1][j]:
                similarity[j] = float("-inf")
        order = sorted(range(len(queue)), key=lambda j: (-similarity[j], j))[:k]
        places.append(order)
        values.append([similarity[j] for j in order])
    return values, places


def known(*sizes, names=4, seed=0):
    """Labels from -1 on."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-1, names, (n,), generator=generator) for n in sizes]


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(
    ("rows", "length", "k"),
    [(1, 1, 1), (5, 37, 3), (7, 300, 8), (4, 64, 64)],
)
def test_equals_the_loop(rows, length, k, masked):
    q, queue = unit(rows, 16).requires_grad_(), unit(length, 16, seed=2)
    labels = known(rows, length) if masked else None
    values, places = queue_topk(q, queue, k, labels)
    expected, where = loop_topk(q, queue, k, labels)
    assert places.tolist() == where and places.dtype == torch.long
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))
    assert not values.requires_grad


@pytest.mark.parametrize("k", [1, 30])
@pytest.mark.parametrize("kinds", [1, 7, 40])
def test_of_equal_similarities_the_first_come_first(k, kinds):
    """Whole numbers have exact products; few kinds of keys make many ties."""
    generator = torch.Generator().manual_seed(kinds)
    q = torch.randint(-2, 3, (8, 6), generator=generator).float()
    kind = torch.randint(-2, 3, (kinds, 6), generator=generator).float()
    queue = kind[torch.randint(0, kinds, (500,), generator=generator)]
    values, places = queue_topk(q, queue, k)
    expected, where = loop_topk(q, queue, k)
    assert places.tolist() == where
    assert values.tolist() == expected


def test_by_hand():
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    queue = torch.tensor([[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0], [0.6, -0.8]])
    values, places = queue_topk(q, queue, 2)
    assert places.tolist() == [[0, 3], [1, 0]]
    torch.testing.assert_close(values, torch.tensor([[0.6, 0.6], [1.0, 0.8]]))
    labels = torch.tensor([5, -1]), torch.tensor([5, -1, -1, 7])
    assert queue_topk(q, queue, 2, labels)[1].tolist() == [[3, 1], [1, 0]]


def test_slots_that_are_left_out_come_last():
    q, queue = unit(2, 16), unit(300, 16, seed=2)
    slots = torch.zeros(300, dtype=torch.long)
    slots[[7, 200]] = -1
    values, places = queue_topk(q, queue, 4, (torch.tensor([0, 1]), slots))
    assert sorted(places[0, :2].tolist()) == [7, 200]
    assert places[0, 2:].tolist() == [0, 1]
    assert values[0, 2:].isneginf().all() and values[1].isfinite().all()


def test_several_queues():
    q, queues = unit(2, 5, 16), unit(2, 80, 16, seed=2)
    values, places = queue_topk(q, queues, 6)
    for b in range(2):
        alone = queue_topk(q[b], queues[b], 6)
        assert torch.equal(places[b], alone[1])
        torch.testing.assert_close(values[b], alone[0])


def test_no_queries():
    values, places = queue_topk(torch.zeros(0, 16), unit(300, 16).float(), 6)
    assert values.shape == places.shape == (0, 6)


def test_what_is_no_number_comes_first_as_in_topk():
    q, queue = unit(3, 16), unit(300, 16, seed=2)
    queue[123] = torch.nan
    assert queue_topk(q, queue, 4)[1][:, 0].tolist() == [123] * 3
    q[1] = torch.nan
    assert queue_topk(q, queue, 4)[0][1].isnan().all()


def test_half_precision_and_autocast():
    q, queue = unit(8, 16).bfloat16(), unit(512, 16, seed=2).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, places = queue_topk(q, queue, 5)
    truth = (q.double() @ queue.double().T).topk(5)
    assert values.dtype == torch.float32 and torch.equal(places, truth.indices)
    torch.testing.assert_close(values.double(), truth.values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [0, 10])
def test_k_must_fit(k):
    with pytest.raises(ValueError, match="queue of 9 keys"):
        queue_topk(unit(2, 16), unit(9, 16), k)


@pytest.mark.parametrize("k", [64, 1024])
def test_full_size(k, blocks):
    """fp32, N = 256, K = 65,536: the loop's values; no tensor of N x K elements."""
    if blocks == "blocks":
        pytest.skip("so many keys in small blocks take long")
    q, queue = unit(256, 128).float(), unit(65536, 128, seed=2).float()
    queue_attention.form_of(q[None], queue[None])  # what is checked only once
    found = []
    elements = largest(lambda: found.extend(queue_topk(q, queue, k)))
    assert elements <= queue.numel() <= q.shape[0] * len(queue) // 2
    truth = q.double() @ queue.double().T
    best = truth.topk(k).values
    torch.testing.assert_close(found[0].double(), best, rtol=0, atol=1e-6)
    torch.testing.assert_close(truth.gather(1, found[1]), best, rtol=0, atol=1e-6)
    assert all(len(set(row)) == k for row in found[1].tolist())
