"""Weights and momenta that are numbers, or change in the course of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmssl_ext.errors import UserValueError

from .memory.clock import Clock
from .part import is_number

_KINDS = ("constant", "step", "linear", "cosine")
_UNITS = ("iteration", "epoch", "training")


@dataclass(frozen=True)
class Schedule:
    """A value over the iterations of a training.

    ``step`` is ``start`` before ``until`` and ``end`` from there on; ``linear`` and
    ``cosine`` go from ``start`` to ``end`` and stay there, cosine as
    ``end + (start - end) (1 + cos(pi t / until)) / 2`` (BYOL, arXiv 2006.07733).

    Attributes:
        kind: ``constant``, ``step``, ``linear`` or ``cosine``.
        start: First value.
        end: Last value.
        until: When it reaches ``end``; None is the end of the training.
        unit: Of ``until``: ``iteration``, ``epoch``, or ``training`` for a share of it.
        name: The key in the config, for messages.
    """

    kind: str
    start: float
    end: float
    until: float | None = None
    unit: str = "iteration"
    name: str = "schedule"

    def __call__(self, clock: Clock) -> float:
        """The value in the iteration that ``clock`` shows.

        Raises:
            ValueError: It depends on the length of the training or of an epoch, which
                nobody has told; ``MethodHook`` does, which ``SSLRunner`` has.
        """
        return self.at(clock.num_steps, clock)

    def at(self, iteration: int, clock: Clock) -> float:
        """The value in another iteration."""
        if self.start == self.end:
            return self.end
        done = iteration / self._length(clock) if self.until != 0 else 1.0
        if done >= 1:
            return self.end
        if self.kind == "step":
            return self.start
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.end + (self.start - self.end) * left

    def _length(self, clock: Clock) -> float:
        """Iterations until the end."""
        whole = self.until is None or self.unit == "training"
        known = clock.total if whole else clock.epoch_length
        unit = self.until if self.until is not None else 1
        if self.unit == "iteration" and self.until is not None:
            return self.until
        if known is None:
            what = "the training" if whole else "an epoch"
            raise UserValueError(
                f"{self.name} depends on how many iterations {what} has; train by "
                "mmssl_ext.SSLRunner, add dict(type='MethodHook') to custom_hooks, or "
                f"give {self.name}.until in iterations."
            )
        return unit * known

    def comes_too_late(self, clock: Clock) -> bool:
        """Whether it is 0 all through the training, but meant to rise."""
        late = self.kind == "step" and self.start == 0 != self.end
        return late and clock.total is not None and self._length(clock) >= clock.total

    @property
    def follows_length(self) -> bool:
        """Whether the length of the training changes its values."""
        whole = self.until is None or self.unit == "training"
        return whole and self.start != self.end

    def complement(self) -> Schedule:
        """What is missing to 1."""
        return replace(self, start=1 - self.start, end=1 - self.end)


def schedule(value: Any, name: str, low: float = 0, high: float = math.inf) -> Schedule:
    """Read a number or ``dict(kind=..., start=..., end=..., until=..., unit=...)``.

    Args:
        value: The setting.
        name: Its key in the config, for messages.
        low: Smallest value that makes sense.
        high: Largest value that makes sense.

    Raises:
        ValueError: It is neither, or outside of the bounds.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Mapping):
        found = _read(value, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = Schedule("constant", value, value, name=name)
    else:
        raise UserValueError(
            f"{name}={value!r} must be a number, or a schedule such as "
            "dict(kind='linear', start=0, end=1, until=10000)."
        )
    for bound in (found.start, found.end):
        if not (math.isfinite(bound) and low <= bound <= high):
            limits = f"lie in [{low:g}, {high:g}]"
            if high == math.inf:
                finite = math.isfinite(bound)
                more = f"be {low:g} or more; {low:g} switches it off"
                limits = more if finite else "be a finite number"
            raise UserValueError(f"{name}={value!r} must {limits}.")
    return found


def _read(value: Mapping[str, Any], name: str) -> Schedule:
    keys = {"kind", "start", "end", "until", "unit"}
    options = {"kind": "", "unit": "iteration", "until": None, **value}
    if unknown := sorted(set(value) - keys):
        raise UserValueError(
            f"{name} has no option {unknown[0]!r}; a schedule takes "
            f"{', '.join(sorted(keys))}."
        )
    if options["kind"] not in _KINDS[1:] or options["unit"] not in _UNITS:
        raise UserValueError(
            f"{name}={dict(value)!r}: kind must be one of {', '.join(_KINDS[1:])} and "
            f"unit one of {', '.join(_UNITS)}."
        )
    numbers = {k: options.get(k) for k in ("start", "end", "until")}
    for key, number in numbers.items():
        optional = key == "until" and options["kind"] != "step"
        missing = number is None and not optional
        if missing or not (number is None or is_number(number)):
            raise UserValueError(
                f"{name}.{key}={number!r} must be a number"
                f"{' of 0 or more' if key == 'until' else ''}."
            )
    if (numbers["until"] or 0) < 0:
        raise UserValueError(f"{name}.until={numbers['until']} must be 0 or more.")
    return Schedule(**options, name=name)
