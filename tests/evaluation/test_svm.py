"""Linear SVMs: average precision, the choice of the cost, low-shot draws."""

import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from mmssl_ext.errors import UserError
from mmssl_ext.evaluation import svm
from mmssl_ext.evaluation.svm import (
    LabelledFeatures,
    average_precision,
    full_svm,
    low_shot_draw,
    low_shot_svm,
)


def loop_average_precision(scores, signs):
    """Every recall level gets the best precision at it or above, one by one."""
    ranked = [s for _, s in sorted(zip(-scores, signs, strict=True))]
    positives = sum(s > 0 for s in ranked)
    points = []
    for n in range(1, len(ranked) + 1):
        hits = sum(s > 0 for s in ranked[:n])
        points.append((hits / positives, hits / n))
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points if r > 0}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area


def toy(n=90, d=12, classes=3, seed=0, spread=0.4):
    """Class c is present where feature c is large; some labels are ignored."""
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random((n, classes)) < 0.35, 1, -1)
    x = rng.normal(0, spread, (n, d))
    x[:, :classes] += targets
    targets[rng.random(targets.shape) < 0.1] = 0
    return LabelledFeatures(x, targets, ("cup", "dog", "elm")[:classes])


def test_average_precision_by_hand():
    # ranked + - + - -: precision 1 at recall 1/2, 2/3 at recall 1
    scores = np.array([0.1, 0.9, 0.5, 0.7, 0.2])
    signs = np.array([-1, 1, 1, -1, -1])
    assert average_precision(scores, signs) == pytest.approx((1 + 2 / 3) / 2)
    # ranked - + +: 1/2 is lifted to the 2/3 further down
    assert average_precision(
        np.array([3.0, 2.0, 1.0]), np.array([-1, 1, 1])
    ) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_the_loop(seed):
    rng = np.random.default_rng(seed)
    scores, signs = rng.random(60), np.where(rng.random(60) < 0.3, 1, -1)
    expected = loop_average_precision(scores, signs)
    assert average_precision(scores, signs) == pytest.approx(expected)
    # the interpolated area is never below the step-wise one
    assert expected >= average_precision_score(signs > 0, scores)


def test_full_protocol_equals_sklearn_step_by_step():
    train, test, costs = toy(spread=1.5), toy(seed=1, spread=1.5), (0.001, 1.0)
    results = full_svm(train, test, costs)

    def unit(x):
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5)

    def fitted(x, y, cost):
        weights = {1: 2, -1: 1}
        return LinearSVC(
            C=cost, class_weight=weights, max_iter=2000, random_state=0
        ).fit(x, y)

    for label, result in enumerate(results):
        kept = train.targets[:, label] != 0
        x, y = unit(train.features)[kept], train.targets[kept, label]
        means = []
        for cost in costs:
            scores = [
                average_precision_score(
                    y[held] > 0,
                    fitted(x[rest], y[rest], cost).decision_function(x[held]),
                )
                for rest, held in StratifiedKFold(3).split(x, y)
            ]
            means.append(np.mean(scores))
        assert result.cost == costs[int(np.argmax(means))]
        seen = test.targets[:, label] != 0
        model = fitted(x, y, result.cost)
        scores = model.decision_function(unit(test.features)[seen])
        expected = loop_average_precision(scores, test.targets[seen, label])
        assert result.ap == pytest.approx(expected, abs=1e-9)


def test_ignored_images_have_no_influence():
    train, test = toy(spread=1.0), toy(seed=1, spread=1.0)
    wild = [part._replace(features=part.features.copy()) for part in (train, test)]
    for part in wild:  # only class 0 is looked at below
        part.features[part.targets[:, 0] == 0] = 1e3
    first, second = (
        full_svm(*(LabelledFeatures(p.features, p.targets[:, :1], ("cup",)) for p in s))
        for s in ((train, test), wild)
    )
    assert first == second


def test_the_grid_is_the_protocols():
    assert len(svm.COSTS) == 26
    assert min(svm.COSTS) == pytest.approx(1e-7) and max(svm.COSTS) == 100
    assert {2.0**-e for e in range(4, 20)} < set(svm.COSTS)


@pytest.mark.parametrize("k", [1, 4])
def test_low_shot_draws(k):
    targets = toy(n=200).targets
    drawn = low_shot_draw(targets, k, trial=0)
    for label, rows in enumerate(drawn):
        signs = targets[rows, label]
        assert (signs == 1).sum() == k and (signs == -1).sum() == 2 * k
        assert len(set(rows)) == len(rows) == 3 * k  # none ignored, none twice
    again, other = (low_shot_draw(targets, k, trial) for trial in (0, 1))
    assert all((a == b).all() for a, b in zip(drawn, again, strict=True))
    assert any((a != b).any() for a, b in zip(drawn, other, strict=True))


def test_low_shot_gives_mean_and_deviation_of_the_best_cost():
    train, test, costs = toy(spread=1.2), toy(seed=1, spread=1.2), (1e-6, 1.0)
    found = low_shot_svm(train, test, shots=(2, 8), trials=3, costs=costs)
    single = {
        cost: low_shot_svm(train, test, shots=(2,), trials=3, costs=(cost,))[2]
        for cost in costs
    }
    best = max(single.values(), key=lambda result: result.mean)
    assert found[2] == pytest.approx(best) and found[2].std > 0
    assert found[8].mean > found[2].mean
    few = train._replace(targets=np.where(train.targets == 1, 0, train.targets))
    few.targets[:2] = 1
    with pytest.raises(ValueError, match="Only 2 training images show the class 'cup'"):
        low_shot_svm(few, test, shots=(1, 4), costs=costs)


@pytest.mark.slow  # the processes import everything anew
def test_processes_give_the_same():
    parts = toy(), toy(seed=1)
    assert full_svm(*parts, (0.1, 1.0), jobs=2) == full_svm(*parts, (0.1, 1.0))


def test_ranks_share_the_tasks(monkeypatch):
    shares = {}
    for rank in (0, 1):
        monkeypatch.setattr(svm, "get_dist_info", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(
            svm,
            "all_gather_object",
            lambda mine, rank=rank: shares.update({rank: mine}) or [],
        )
        svm._share(pow, [(n, 2) for n in range(5)], 1)
    assert shares == {0: [0, 4, 16], 1: [1, 9]}
    monkeypatch.setattr(svm, "all_gather_object", lambda _: [shares[0], shares[1]])
    assert svm._share(pow, [(n, 2) for n in range(5)], 1) == [0, 1, 4, 9, 16]


def test_classes_without_images_are_named():
    train, test = toy(), toy(seed=1)
    test.targets[:, 1] = -1
    with pytest.raises(ValueError, match="Only 0 test images show the class 'dog'"):
        full_svm(train, test, costs=(1.0,))
    with pytest.raises(ValueError, match="costs"):
        full_svm(train, train, costs=())


def test_absent_scikit_learn_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        full_svm(toy(), toy())
