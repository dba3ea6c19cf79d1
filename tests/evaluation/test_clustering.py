"""Clusters of features against classes: by hand, scikit-learn and a search."""

import importlib.util
from itertools import permutations

import numpy as np
import pytest
import torch

from mmssl_ext.errors import UserError
from mmssl_ext.evaluation import clustering_scores
from mmssl_ext.evaluation.clustering import agreement


def test_by_hand():
    # Two of six images are in the wrong cluster whatever number stands for which.
    classes, clusters = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 0, 1])
    found = agreement(clusters, classes)
    # ARI: 2 pairs agree, expected 6 * 6 / 15 = 2.4, of at most 6
    entropy, shared = np.log(2), np.log(2) - (np.log(3) - 2 / 3 * np.log(2))
    assert found["nmi"] == pytest.approx(100 * shared / entropy)
    assert found["ari"] == pytest.approx(100 * (2 - 2.4) / (6 - 2.4))
    assert found["acc"] == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_accuracy_is_that_of_the_best_assignment(count):
    rng = np.random.default_rng(count)
    classes = rng.integers(0, 4, 60)
    clusters = np.where(
        rng.random(60) < 0.5, classes % count, rng.integers(0, count, 60)
    )
    wide = max(4, count)  # classes that no cluster stands for, or the other way round
    tries = [
        np.mean(np.array(order)[clusters] == classes)
        for order in permutations(range(wide))
    ]
    assert agreement(clusters, classes)["acc"] == pytest.approx(100 * max(tries))


def blobs(classes, per_class=20, spread=0.05):
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[:classes]
    noise = spread * torch.randn(classes, per_class, 8, generator=generator)
    lengths = 1 + 9 * torch.rand(classes, per_class, 1, generator=generator)
    rows = lengths * (centres[:, None] + noise)
    labels = torch.arange(classes).repeat_interleave(per_class)
    return rows.flatten(0, 1), labels


def test_clear_clusters_are_found_whatever_the_length_of_their_rows():
    rows, labels = blobs(5)
    found = clustering_scores(rows, labels)
    assert found == {"nmi": pytest.approx(100), "ari": 100, "acc": 100}
    more = clustering_scores(rows, labels, num_clusters=10)
    assert more["acc"] < 100 and 60 < more["nmi"] < 100


def test_the_same_seed_gives_the_same_scores():
    rows, labels = torch.randn(60, 8), torch.arange(60) % 4
    state = torch.get_rng_state()
    found = [clustering_scores(rows, labels, seed=seed) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("labels", "clusters", "sentence"),
    [
        ([0, 0, 0, 0], None, "nothing of a query set with a single class"),
        ([0, 1, 0, 1], 5, "5 clusters cannot be made of the 4 images .* per class .2."),
        ([0, 1, -1, 1], None, "need a label for every image"),
        ([0, 1], None, "need a label for every image"),
    ],
)
def test_what_cannot_be_scored(labels, clusters, sentence):
    with pytest.raises(ValueError, match=sentence):
        clustering_scores(torch.randn(4, 3), torch.tensor(labels), clusters)


def test_features_that_are_not_finite():
    rows = torch.randn(4, 3)
    rows[1, 0] = torch.nan
    with pytest.raises(ValueError, match="finite features"):
        clustering_scores(rows, torch.tensor([0, 1, 0, 1]))


def test_without_scikit_learn(monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        "mmssl_ext.evaluation.clustering.find_spec",
        lambda name: None if name == "sklearn" else known(name),
    )
    with pytest.raises(UserError, match=r"need scikit-learn.*pip install"):
        clustering_scores(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
