"""Weighted kNN against a loop and a case by hand."""

import math

import pytest
import torch

from mmssl_ext.evaluation import Features, knn_accuracy, weighted_knn
from tests.distributed import run_ranks


def loop_knn(query, bank, labels, num_classes, k, temperature):
    """The definition, one query at a time in double precision."""
    scores = torch.zeros(len(query), num_classes, dtype=torch.double)
    for i, q in enumerate(query.double()):
        similarity = [float(q @ b / (q.norm() * b.norm())) for b in bank.double()]
        for j in sorted(range(len(bank)), key=lambda j: -similarity[j])[:k]:
            scores[i, labels[j]] += math.exp(similarity[j] / temperature)
    return scores / scores.sum(1, keepdim=True)


def random_case(seed=0, n=23, m=57, c=6, classes=7):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, c, generator=generator) * 3,
        torch.randn(m, c, generator=generator) * 5,
        torch.randint(0, classes, (m,), generator=generator),
        classes,
    )


@pytest.mark.parametrize(("k", "chunk"), [(1, 4), (5, 10), (57, 8192)])
def test_equals_the_definition_whatever_the_chunk(k, chunk):
    case = random_case()
    scores = weighted_knn(*case, k=k, temperature=0.3, chunk=chunk)
    expected = loop_knn(*case, k=k, temperature=0.3)
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=1e-4)


def test_by_hand():
    bank = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = weighted_knn(
        torch.tensor([[3.0, 0.0]]), bank, torch.tensor([0, 1, 1]), 2, 2, 0.5
    )
    # similarities 1 and 0 vote, weights e^2 and e^0
    torch.testing.assert_close(
        scores, torch.tensor([[math.exp(2), 1.0]]) / (math.exp(2) + 1)
    )


def test_extremes_of_temperature_and_k():
    assert weighted_knn(*random_case(), k=5, temperature=0.001).isfinite().all()
    with pytest.warns(UserWarning, match="57 images"):
        scores = weighted_knn(*random_case(), k=1000)
    torch.testing.assert_close(scores, weighted_knn(*random_case(), k=57))


@pytest.mark.parametrize(
    ("rows", "k", "temperature"), [(0, 1, 0.1), (3, 0, 0.1), (3, 1, 0.0)]
)
def test_impossible_settings_are_refused(rows, k, temperature):
    bank, labels = torch.ones(rows, 3), torch.zeros(rows, dtype=torch.long)
    with pytest.raises(ValueError, match=r"bank has 0|must be positive"):
        weighted_knn(torch.ones(2, 3), bank, labels, 1, k, temperature)


def nearest_classes(_rank=0):
    """Figures of queries of which half are right, all on the first rank of two."""
    bank = torch.eye(8)
    bank_set = Features({"backbone": bank}, torch.arange(8), [""] * 8)
    labels = torch.tensor([0, 7, 1, 7, 2, 7, 3, 6])  # of classes 0, 0, 1, 1, ...
    query = bank.repeat_interleave(2, 0)[:8]
    found = Features({"backbone": query}, labels, [""] * 8)
    return knn_accuracy(found, bank_set, k=1)


def test_two_ranks_share_the_queries_and_both_know_the_accuracy():
    assert nearest_classes()["backbone_top1"] == 50.0
    assert run_ranks(nearest_classes, 2) == [nearest_classes()] * 2


def test_accuracy_counts_top1_and_top5():
    # One bank row per class; similarity to class c falls with |query - c|.
    angles = torch.arange(8) * 0.1
    bank = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.arange(8)
    bank_set = Features({"backbone": bank}, labels, [""] * 8)
    query = Features(
        {"backbone": bank[[0, 1, 2, 0]]}, torch.tensor([0, 1, 0, 7]), [""] * 4
    )
    # rows 0 and 1 are right, class 0 is among the five next to 2, class 7 not near 0
    scores = knn_accuracy(query, bank_set, k=8, temperature=0.1)
    assert scores == pytest.approx({"backbone_top1": 50.0, "backbone_top5": 75.0})


def test_accuracy_needs_labels_and_known_features():
    found = Features({"backbone": torch.ones(2, 3)}, None, ["a", "b"])
    with pytest.raises(ValueError, match="label"):
        knn_accuracy(found, found)
    found = found._replace(labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="embeding"):
        knn_accuracy(found, found, names=("embeding",))
