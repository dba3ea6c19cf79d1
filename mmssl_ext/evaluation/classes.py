"""Two labelled sets meet by the names of their classes, not by the numbers.

A number depends on which other classes a set has: in a folder without ``bird`` the
class ``cat`` is number 0, in one with it number 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmssl_ext.datasets.listing import some
from mmssl_ext.errors import UserValueError

Names = Sequence[str] | None


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Class names of a dataset, or None where it has none."""
    names = (getattr(dataset, "metainfo", None) or {}).get("classes")
    return tuple(map(str, names)) if names else None


def in_numbers_of(
    labels: np.ndarray,
    classes: Names,
    known: Names,
    sets: tuple[str, str] = ("The query set", "the bank"),
) -> np.ndarray:
    """Labels of one set, n integers from 0, in the numbers of another one's classes.

    Sets without names (a list file gives numbers alone) are taken by number.
    ``classes`` and ``known`` name the numbers of the two, ``sets`` the two in an error.

    Raises:
        ValueError: An image is of a class that the other set does not know.
    """
    labels = np.asarray(labels, np.int64)
    present = np.unique(labels).tolist()
    if not known or not present:
        return labels
    if classes is None or present[-1] >= len(classes):
        classes = list(map(str, range(present[-1] + 1)))
    number = {name: i for i, name in enumerate(known)}
    unknown = [i for i in present if classes[i] not in number]
    by_number = _only_numbers(classes) != _only_numbers(known)
    if unknown and by_number and len(unknown) == len(present):
        if present[-1] < len(known):
            return labels
        unknown = [i for i in present if i >= len(known)]
    if unknown:
        count = f"{len(unknown)} class{'es' * (len(unknown) > 1)}"
        raise UserValueError(
            f"{sets[0]} has images of {count} that {sets[1]} does not have: "
            f"{_some([classes[i] for i in unknown])}; {sets[1]} has {_some(known)}. "
            "Give both the same class names, or take these images out."
        )
    table = np.array([number.get(name, -1) for name in classes], np.int64)
    return table[labels]


def match_classes(dataset: Any, training: Any) -> None:
    """Give the labels of a test set the numbers that a model was trained with.

    Datasets of this package are renumbered in place; others must agree.

    Raises:
        ValueError: The sets differ in their classes.
    """
    classes, known = class_names(dataset), class_names(training)
    if classes is None or known is None or classes == known:
        return
    labels, targets = (getattr(dataset, name, None) for name in ("labels", "targets"))
    fits, ours = True, hasattr(dataset, "renumber")
    if ours and targets is not None:  # n x C
        fits = set(classes) == set(known)
        if fits:
            columns = [classes.index(name) for name in known]
            dataset.renumber(targets[:, columns], known)
    elif ours and labels is not None:
        sets = ("The test set", "the training set")
        dataset.renumber(in_numbers_of(labels, classes, known, sets), known)
    else:
        numbers = _only_numbers(classes) or _only_numbers(known)
        fits = numbers and len(classes) == len(known)
    if not fits:
        raise UserValueError(
            f"The test set has the classes {_some(classes)}, the training set "
            f"{_some(known)}, so their labels mean different things. Give both the "
            "same `classes`, in the same order."
        )


def _only_numbers(names: Sequence[str]) -> bool:
    """Whether the names say no more than the numbers do."""
    return list(names) == [str(i) for i in range(len(names))]


def _some(names: Sequence[str]) -> str:
    return some(names, 5, "'")
