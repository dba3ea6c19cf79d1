"""Figures of pseudo-labels against scikit-learn and hand-computed cases."""

from math import exp, log

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from mmssl_ext.evaluation import cluster_figures


def figures(labels, num_clusters, classes=None):
    """As from the hook: labels are int32, classes int64."""
    labels = torch.as_tensor(labels, dtype=torch.int32)
    classes = None if classes is None else torch.as_tensor(classes)
    given = [x if x is None else x.clone() for x in (labels, classes)]
    found = cluster_figures(labels, num_clusters, classes)
    assert torch.equal(labels, given[0])
    assert classes is None or torch.equal(classes, given[1])
    assert all(value.shape == () for value in found.values())
    return {name: value.item() for name, value in found.items()}


def test_by_hand():
    # clusters of 3, 2, 1 and 0 images; of their classes 2, 2 and 1 agree
    found = figures([0, 0, 0, 1, 1, 2], 4, [0, 0, 1, 1, 1, 2])
    by_cluster = log(2) / 2 + log(3) / 3 + log(6) / 6
    by_class = log(3) / 3 + log(2) / 2 + log(6) / 6
    both = log(3) / 3 + log(6) / 6 + log(3) / 3 + log(6) / 6  # of 2, 1, 2 and 1
    assert found == pytest.approx(
        {
            "size_min": 0,
            "size_median": 1.5,  # of 0, 1, 2 and 3
            "size_max": 3,
            "effective_number": exp(by_cluster),
            "purity": 5 / 6,
            "nmi": (by_cluster + by_class - both) / ((by_cluster + by_class) / 2),
        },
        abs=1e-7,
    )
    assert found["purity"] == 5 / 6


@pytest.mark.parametrize("seed", [0, 5])
def test_against_scikit_learn(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(top, n):
        return torch.randint(top, (n,), generator=generator)

    n, count, num_classes = 40 + 60 * seed, 3 + 4 * seed, 2 + 3 * seed
    classes = draw(num_classes, n)
    # half of the labels follow the class; three numbers are never used
    labels = torch.where(draw(2, n) == 0, classes % count, draw(count, n))
    found = figures(labels, count + 3, classes)
    table = contingency_matrix(classes, labels)  # classes x clusters
    assert found["purity"] == pytest.approx(table.max(0).sum() / n, abs=1e-7)
    expected = normalized_mutual_info_score(classes, labels)
    assert 0.01 < expected < 0.99
    assert found["nmi"] == pytest.approx(expected, abs=1e-12)
    assert found["size_min"] == 0


@pytest.mark.parametrize(
    ("labels", "classes", "purity", "nmi"),
    [
        ([0, 0, 0, 0], [0, 0, 1, 2], 0.5, 0),  # one cluster
        ([0, 1, 2, 2], [1, 1, 1, 1], 1, 0),  # one class
        ([2, 2, 2, 2], [1, 1, 1, 1], 1, 1),  # one of each: they agree
        ([0, 0, 1, 1, 0, 3], [0, 0, 3, 3, 0, 2], 1, 1),  # rounding alone is above 1
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2] * 3, 1 / 3, 0),  # and here below 0
        ([0, 1, 2, 3], [0, 0, 1, 1], 1, 2 / 3),  # ln 2 over (ln 4 + ln 2) / 2
    ],
)
def test_degenerate_cases(labels, classes, purity, nmi):
    found = figures(labels, 4, classes)
    assert found["purity"] == pytest.approx(purity, abs=1e-7)
    assert 0 <= found["nmi"] <= 1
    assert found["nmi"] == pytest.approx(nmi, abs=1e-12)
    expected = normalized_mutual_info_score(classes, labels)
    assert found["nmi"] == pytest.approx(expected, abs=1e-12)


def test_effective_number_counts_clusters():
    sizes = ("size_min", "size_median", "size_max")
    assert set(figures([0, 1, 1], 2)) == {*sizes, "effective_number"}
    assert figures([0, 2] * 3, 5)["effective_number"] == pytest.approx(2)
    assert figures([0, 0, 0, 1], 2)["effective_number"] == pytest.approx(
        4 / 3**0.75  # exp(3/4 ln(4/3) + 1/4 ln 4)
    )
