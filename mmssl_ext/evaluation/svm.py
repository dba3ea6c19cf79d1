"""Linear SVMs on frozen features of a multi-label set, as in VOC07 classification.

The protocol of Goyal et al. (arXiv 1905.01235, section 4 and its published code): one
LinearSVC per class against the rest on L2-normalised features. With all labels the cost
of each class is chosen by 3-fold cross-validation. With few, k positives and
(C - 1) * k negatives of each class are drawn, five times over. Ranks and processes
share the work.

Labels are those of VOC: 1 present, -1 absent, 0 ignored (only difficult objects).
Differs from that code: an ignored image is left out of training too, where the code
counts it as absent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import all_gather_object, get_dist_info

from mmssl_ext.errors import UserError, UserValueError

# 10^-7 to 10^2 and 2^-19 to 2^-4
COSTS = (*(10.0**e for e in range(-7, 3)), *(0.5**e for e in range(4, 20)))
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


class LabelledFeatures(NamedTuple):
    """Features with the labels of several classes."""

    features: np.ndarray  # n x D, not normalised
    targets: np.ndarray  # n x C of 1, -1 and 0
    classes: Sequence[str]  # the C names


class FullResult(NamedTuple):
    """Of one class: average precision on the test set, in [0, 1]; chosen cost."""

    ap: float
    cost: float


class LowShotResult(NamedTuple):
    """For one k: mAP and its deviation over the draws, in [0, 1]; chosen cost."""

    mean: float
    std: float
    cost: float


def average_precision(scores: np.ndarray, signs: np.ndarray) -> float:
    """Area below the interpolated precision-recall curve, all points.

    scikit-learn's is not interpolated, and so a little smaller. Of ``scores``, n, and
    ``signs``, n of 1 and -1, at least one 1.
    """
    order = np.argsort(-scores, kind="stable")
    positive = signs[order] > 0
    precision = np.cumsum(positive) / np.arange(1, len(signs) + 1)
    # The best precision at this recall or above; recall grows only at a positive.
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[positive].mean())


def low_shot_draw(
    targets: np.ndarray, k: int, trial: int, seed: int = 0
) -> list[np.ndarray]:
    """Choose at random the images that each class may learn from: sorted rows of each.

    These are k positives and (C - 1) * k negatives, or all where there are fewer, of
    ``targets``, n x C of 1, -1 and 0. The choice depends on (seed, k, trial, class)
    alone; that of a larger k does not contain that of a smaller one.
    """
    classes = targets.shape[1]
    drawn = []
    for label in range(classes):
        rng = np.random.default_rng((seed, k, trial, label))
        positive, negative = (np.flatnonzero(targets[:, label] == s) for s in (1, -1))
        count = min(len(negative), max(1, classes - 1) * k)
        rows = [rng.choice(positive, k, False), rng.choice(negative, count, False)]
        drawn.append(np.sort(np.concatenate(rows)))
    return drawn


def full_svm(
    train: LabelledFeatures,
    test: LabelledFeatures,
    costs: Sequence[float] = COSTS,
    folds: int = 3,
    jobs: int = 1,
) -> list[FullResult]:
    """Train on all labels and test; one result per class.

    A class takes the cost of the best mean average precision over the stratified
    ``folds``, the first of several equal ones. ``jobs`` are processes on this machine,
    -1 for one per core.

    Raises:
        ValueError: A class has too few positive or negative images.
        UserError: scikit-learn is not installed.
    """
    _check(train, test, costs, folds, folds)
    (x, y), (test_x, test_y) = (_normalised(part) for part in (train, test))
    classes = range(y.shape[1])
    tasks: list[tuple] = [(x, y[:, c], cost, folds) for c in classes for cost in costs]
    scores = np.reshape(_share(_cross_validate, tasks, jobs), (-1, len(costs)))
    chosen = [costs[i] for i in scores.argmax(1)]
    tasks = [(x, y[:, c], (chosen[c],), test_x, test_y[:, c]) for c in classes]
    found = _share(_fit_and_test, tasks, jobs)
    return [FullResult(ap[0], cost) for ap, cost in zip(found, chosen, strict=True)]


def low_shot_svm(
    train: LabelledFeatures,
    test: LabelledFeatures,
    shots: Sequence[int] = SHOTS,
    trials: int = 5,
    costs: Sequence[float] = COSTS,
    jobs: int = 1,
    seed: int = 0,
) -> dict[int, LowShotResult]:
    """Train on k positives per class and test; a result for each k of ``shots``.

    As in the published code there is no validation set: for each k that cost is
    reported whose mAP on the test set, averaged over the ``trials``, is best. All else
    is as in :func:`full_svm` and :func:`low_shot_draw`.
    """
    _check(train, test, costs, max(shots), 1)
    (x, y), (test_x, test_y) = (_normalised(part) for part in (train, test))
    tasks = [
        (x, y[:, label], costs, test_x, test_y[:, label], rows)
        for k in shots
        for trial in range(trials)
        for label, rows in enumerate(low_shot_draw(y, k, trial, seed))
    ]
    shape = (len(shots), trials, y.shape[1], len(costs))
    maps = np.reshape(_share(_fit_and_test, tasks, jobs), shape).mean(2)
    results = {}
    for k, found in zip(shots, maps, strict=True):  # trials x costs
        best = int(found.mean(0).argmax())
        mean, std = found[:, best].mean(), found[:, best].std()
        results[k] = LowShotResult(float(mean), float(std), costs[best])
    return results


def _check(
    train: LabelledFeatures,
    test: LabelledFeatures,
    costs: Sequence[float],
    positives: int,
    negatives: int,
) -> None:
    """Refuse what cannot be computed, before the long work."""
    if find_spec("sklearn") is None:
        raise UserError(
            "Linear SVMs need scikit-learn, which is not installed: "
            "pip install scikit-learn"
        )
    if not costs or min(costs) <= 0:
        raise UserValueError(f"costs={costs!r} must be positive, and at least one.")
    for part, name, sign, least in (
        (train, "training", 1, positives),
        (train, "training", -1, negatives),
        (test, "test", 1, 1),
        (test, "test", -1, 1),
    ):
        counts = (part.targets == sign).sum(0)
        if (counts < least).any():
            label, kind = int(counts.argmin()), "show" if sign > 0 else "lack"
            raise UserValueError(
                f"Only {counts[label]} {name} images {kind} the class "
                f"'{part.classes[label]}', but {least} are needed. Take it out of "
                "`classes`, add images, or ask for fewer `shots`."
            )


def _normalised(part: LabelledFeatures) -> tuple[np.ndarray, np.ndarray]:
    x = np.ascontiguousarray(part.features, np.float64)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / (norms + 1e-5), np.asarray(part.targets)


def _share(function: Callable, tasks: list[tuple], jobs: int) -> list[Any]:
    """Call a function for each task; all ranks get the results in order."""
    from joblib import Parallel, delayed

    rank, ranks = get_dist_info()
    mine = Parallel(n_jobs=jobs)(delayed(function)(*t) for t in tasks[rank::ranks])
    results: list[Any] = [None] * len(tasks)
    for other, share in enumerate(all_gather_object(mine)):
        results[other::ranks] = share
    return results


def _svm(cost: float) -> Any:
    from sklearn.svm import LinearSVC

    options = {"class_weight": {1: 2, -1: 1}, "dual": True, "random_state": 0}
    return LinearSVC(C=cost, max_iter=2000, **options)


def _cross_validate(x: np.ndarray, signs: np.ndarray, cost: float, folds: int) -> float:
    from sklearn.model_selection import cross_val_score

    kept = signs != 0
    with warnings.catch_warnings():
        _expect_no_convergence()
        scores = cross_val_score(
            _svm(cost), x[kept], signs[kept], cv=folds, scoring="average_precision"
        )
    return float(scores.mean())


def _fit_and_test(
    x: np.ndarray,
    signs: np.ndarray,
    costs: Sequence[float],
    test_x: np.ndarray,
    test_signs: np.ndarray,
    rows: np.ndarray | None = None,
) -> list[float]:
    """Average precision for each cost, trained on some rows or on all not ignored."""
    kept = np.flatnonzero(signs) if rows is None else rows
    test_kept = test_signs != 0
    with warnings.catch_warnings():
        _expect_no_convergence()
        fitted = [_svm(cost).fit(x[kept], signs[kept]) for cost in costs]
    return [
        average_precision(f.decision_function(test_x[test_kept]), test_signs[test_kept])
        for f in fitted
    ]


def _expect_no_convergence() -> None:
    """The protocol's 2,000 iterations end early at the high costs of its grid."""
    from sklearn.exceptions import ConvergenceWarning

    warnings.simplefilter("ignore", ConvergenceWarning)
