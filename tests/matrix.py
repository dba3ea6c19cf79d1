"""Products of many choices, of which `make test` runs as few as hold every pair."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def pairwise(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by the product of the axes.

    Combinations that :func:`pairs` leaves out are marked ``slow``: `make test-all` runs
    them. A value of an axis may be a ``pytest.param`` with an id.
    """
    few = set(pairs([len(values) for values in axes.values()]))
    cases = []
    for at in itertools.product(*(range(len(values)) for values in axes.values())):
        chosen = [values[i] for values, i in zip(axes.values(), at, strict=True)]
        cases.append(
            pytest.param(
                *(getattr(x, "values", (x,))[0] for x in chosen),
                id="-".join(str(getattr(x, "id", x)) for x in chosen),
                marks=[pytest.mark.matrix] + [pytest.mark.slow] * (at not in few),
            )
        )
    return pytest.mark.parametrize(tuple(axes), cases)


def pairs(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Few combinations in which any two values of two axes meet.

    Greedily, each next one has the most pairs that none before it has.

    Args:
        sizes: Number of values of each axis.

    Returns:
        A tuple per combination, with the number of the value on each axis.
    """

    def met(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(case), min(2, len(sizes))))

    whole = list(itertools.product(*map(range, sizes)))
    missing = set().union(*map(met, whole))
    chosen = []
    while missing:
        best = max(whole, key=lambda case: len(met(case) & missing))
        chosen.append(best)
        missing -= met(best)
    return chosen
