"""The choice of combinations that hold every pair."""

from __future__ import annotations

import itertools

import pytest

from .matrix import pairs, pairwise


@pytest.mark.parametrize(
    ("sizes", "most"),
    # At least the product of the two longest axes; greedily a few more.
    [((3,), 3), ((4, 3), 12), ((2, 4, 3), 12), ((3, 3, 3, 3), 12), ((9, 7, 5), 68)],
)
def test_any_two_values_meet_in_few_combinations(sizes, most):
    chosen = pairs(sizes)
    assert len(set(chosen)) == len(chosen) <= most
    axes = range(len(sizes))
    for a, b in itertools.combinations_with_replacement(axes, 2):
        met = {(case[a], case[b]) for case in chosen}
        values = [(i, i) for i in range(sizes[a])]
        if a != b:
            values = list(itertools.product(range(sizes[a]), range(sizes[b])))
        assert met == set(values)


def test_the_whole_product_is_there_and_what_is_left_out_is_slow():
    named = [pytest.param({"x": 1}, id="one"), pytest.param({"x": 2}, id="two")]
    mark = pairwise(first=named, second="abc", third=[0, 1]).mark
    names, cases = mark.args
    assert names == ("first", "second", "third")
    whole = itertools.product([{"x": 1}, {"x": 2}], "abc", [0, 1])
    assert [case.values for case in cases] == list(whole)
    assert cases[0].id == "one-a-0" and cases[-1].id == "two-c-1"
    assert all(case.marks[0].name == "matrix" for case in cases)
    slow = [len(case.marks) == 2 for case in cases]
    assert slow.count(False) == len(pairs([2, 3, 2])) == 6
