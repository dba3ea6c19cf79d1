"""Rows of results/*.csv, and their figures as the pages write them."""

from __future__ import annotations

import csv
import statistics
from functools import cache
from pathlib import Path

from scipy import stats

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
ROOT = "root:"  # in a link, what a page replaces by its own way to the repository
NOT_RECORDED = "not recorded"  # of a row that was measured before that was asked

Row = dict[str, str]
Cells = list[list[str]]  # the header first


@cache
def read(name: str) -> list[Row]:
    """Rows of a CSV.

    Raises:
        KeyError: There is no such CSV.
    """
    try:
        with (RESULTS / f"{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise KeyError(f"There is no benchmarks/results/{name}.csv.") from None


def select(name: str, **conditions: str | int) -> list[Row]:
    """Rows of a CSV that fulfil all conditions."""
    return [
        row
        for row in read(name)
        if all(row[key] == str(value) for key, value in conditions.items())
    ]


def one(name: str, **conditions: str | int) -> Row:
    """The row that fulfils all conditions.

    Raises:
        KeyError: There is none, or several.
    """
    rows = select(name, **conditions)
    if len(rows) != 1:
        raise KeyError(f"{len(rows)} rows of {name} have {conditions}.")
    return rows[0]


def value(query: str) -> str:
    """Return one figure: ``CSV KEY=VALUE ... COLUMN [FORMAT]``.

    Raises:
        KeyError: That is not exactly one figure.
    """
    name, *words = query.split()
    conditions = dict(word.split("=", 1) for word in words if "=" in word)
    column, *formats = [word for word in words if "=" not in word]
    return format(float(one(name, **conditions)[column]), *(formats or [".2f"]))


def short(value: float | str) -> str:
    """Three digits, and all before the point: 0.16, 6.45, 20.4, 1,393."""
    number = float(value)
    digits = 2 if abs(number) < 10 else 1 if abs(number) < 100 else 0
    return f"{number:,.{digits}f}"


def with_interval(
    row: Row, name: str = "speedup", low: str = "", high: str = ""
) -> str:
    """A ratio with its 95 % interval."""
    ends = row[low or f"{name}_low"], row[high or f"{name}_high"]
    return f"{short(row[name])} ({short(ends[0])} to {short(ends[1])})"


def mean(values: list[float]) -> str:
    """Mean and sample standard deviation; only the value where it is one; or a dash."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def difference(values: list[float]) -> str:
    """Mean of differences in pairs with its 95 % interval by Student's t, or a dash."""
    if len(values) < 2:
        return f"{values[0]:+.1f}" if values else "-"
    middle = statistics.mean(values)
    wide = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values)
    wide /= len(values) ** 0.5
    return f"{middle:+.1f} ({middle - wide:+.1f} to {middle + wide:+.1f})"


def step_ratio(row: Row) -> str:
    """A ratio of steps with its interval."""
    return with_interval(row, "value", "low", "high")
