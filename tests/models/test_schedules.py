"""Weights and momenta over the course of a training."""

import math
import re

import pytest

from mmssl_ext.models.memory.clock import Clock
from mmssl_ext.models.schedules import Schedule, schedule


def clock(iteration=0, total=None, epoch_length=None):
    found = Clock()
    found.set(iteration)
    found.total, found.epoch_length = total, epoch_length
    return found


def values(setting, iterations, **lengths):
    read = schedule(setting, "weight")
    return [read(clock(i, **lengths)) for i in iterations]


def test_a_number_stays():
    assert values(0.3, (0, 7, 10**6)) == [0.3] * 3
    assert values(0, (0, 5)) == [0, 0]


def test_step():
    setting = dict(kind="step", start=0, end=0.5, until=10)
    assert values(setting, (0, 9, 10, 11)) == [0, 0, 0.5, 0.5]
    # The training ends before.
    assert values(setting, (0, 4), total=5) == [0, 0]


def test_linear():
    setting = dict(kind="linear", start=1, end=0.2, until=8)
    assert values(setting, (0, 2, 4, 8, 100)) == pytest.approx([1, 0.8, 0.6, 0.2, 0.2])
    assert values(setting | {"until": 0}, (0, 1)) == [0.2, 0.2]
    fraction = dict(kind="linear", start=0, end=1, until=2.5)
    assert values(fraction, (1, 2, 3)) == pytest.approx([0.4, 0.8, 1])


def test_cosine():
    """By hand: (1 + cos(pi t / 6)) / 2 at t = 2, 3, 4 is 3/4, 1/2, 1/4."""
    setting = dict(kind="cosine", start=4, end=0, until=6)
    assert values(setting, (0, 2, 3, 4, 6, 7)) == pytest.approx([4, 3, 2, 1, 0, 0])


@pytest.mark.parametrize(
    ("base", "taus"),
    [
        (0.99, [0.99, 0.991464, 0.995, 0.998536, 1]),
        (0.996, [0.996, 0.996586, 0.998, 0.999414, 1]),
    ],
)
def test_byol(base, taus):
    setting = dict(kind="cosine", start=base, end=1)
    found = values(setting, (0, 250, 500, 750, 1000), total=1000)
    assert found == pytest.approx(taus, abs=5e-7)


def test_epochs():
    setting = dict(kind="step", start=0, end=1, until=3, unit="epoch")
    assert values(setting, (0, 29, 30), epoch_length=10) == [0, 0, 1]
    half = dict(kind="linear", start=0, end=1, until=0.5, unit="epoch")
    assert values(half, (0, 1, 5), epoch_length=10) == pytest.approx([0, 0.2, 1])


def test_complement():
    read = schedule(dict(kind="step", start=0, end=0.25, until=4), "share")
    rest = read.complement()
    for i in range(6):
        assert read(clock(i)) + rest(clock(i)) == 1
    assert schedule(0.25, "share").complement()(clock()) == 0.75


def test_read_again():
    read = schedule(dict(kind="step", start=0, end=1, until=2), "share")
    assert schedule(read, "weights.dense") is read
    assert isinstance(read, Schedule)


def test_unknown_lengths_are_named():
    to_the_end = schedule(dict(kind="linear", start=0, end=1), "weights.dense")
    with pytest.raises(ValueError, match=r"weights\.dense .* iterations the training"):
        to_the_end(clock())
    options = dict(kind="linear", start=0, end=1, until=2, unit="epoch")
    with pytest.raises(ValueError, match=r"how many iterations an epoch has; .*Method"):
        schedule(options, "weights.dense")(clock(total=10))
    # A constant one needs none.
    assert schedule(dict(kind="linear", start=1, end=1), "w")(clock()) == 1


def test_what_comes_too_late():
    late = schedule(dict(kind="step", start=0, end=1, until=10), "w")
    assert late.comes_too_late(clock(total=10))
    assert not late.comes_too_late(clock(total=11))
    assert not late.comes_too_late(clock())
    epochs = dict(kind="step", start=0, end=1, until=3, unit="epoch")
    assert schedule(epochs, "w").comes_too_late(clock(total=30, epoch_length=10))
    assert not schedule(epochs, "w").comes_too_late(clock(total=31, epoch_length=10))
    rising = schedule(dict(kind="linear", start=0, end=1, until=100), "w")
    assert not rising.comes_too_late(clock(total=10))
    assert not schedule(0, "w").comes_too_late(clock(total=10))


GOOD = dict(kind="step", start=0, end=1, until=10)


def without(*names):
    return {name: value for name, value in GOOD.items() if name not in names}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (GOOD | {"kind": "exponential"}, "kind must be one of step, linear, cosine"),
        (without("kind"), "kind must be one of step, linear, cosine"),
        (GOOD | {"unit": "epochs"}, "unit one of iteration, epoch"),
        (GOOD | {"stop": 1}, "w has no option 'stop'; a schedule takes end, kind, "),
        (without("until"), "w.until=None must be a number of 0 or more"),
        (GOOD | {"until": -1}, "w.until=-1 must be 0 or more"),
        (GOOD | {"until": math.inf}, "w.until=inf must be a number"),
        (GOOD | {"until": True}, "w.until=True must be a number"),
        (without("start"), "w.start=None must be a number"),
        (GOOD | {"end": [1]}, "w.end=[1] must be a number"),
        (GOOD | {"start": -0.1}, "must be 0 or more"),
        (GOOD | {"end": -0.1}, "must be 0 or more"),
        (-1, "w=-1 must be 0 or more"),
        (math.inf, "w=inf must be a finite number"),
        (True, "w=True must be a number, or a schedule such as"),
        (None, "w=None must be a number, or a schedule such as"),
    ],
)
def test_what_is_no_schedule_is_refused(setting, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        schedule(setting, "w")
    assert str(caught.value).startswith("w")
    assert "\n" not in str(caught.value)


def test_bounds():
    assert schedule(1, "loss_lambda", 0, 1)(clock()) == 1
    with pytest.raises(ValueError, match=r"loss_lambda=1.5 must lie in \[0, 1\]"):
        schedule(1.5, "loss_lambda", 0, 1)
