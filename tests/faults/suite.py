"""The faults R1 to R45: what happens, what must follow, and the table of a run.

A test names the faults that it injects by ``@pytest.mark.fault("R5", "R22")``. It runs
with all other tests unless it is marked ``slow`` too; ``pytest --faults`` runs every
test that is marked ``fault`` or ``slow`` and prints a row per fault. Tests marked
``slurm`` run where their folder is named, and any test where ``-m`` or its own name
asks for it.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
RESULTS = REPO / "benchmarks/results/upstream_faults.csv"


def observed() -> dict[str, dict[str, str]]:
    """The faults by id, and what upstream was seen to do."""
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


FAULTS = {fault: row["fault"] for fault, row in observed().items()}


@dataclasses.dataclass
class Row:
    """What the tests of one fault came to."""

    tests: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = dataclasses.field(default_factory=Counter)
    reason: str = ""  # of the last skipped test

    @property
    def result(self) -> str:
        """One word, and why where nothing was proved."""
        if not self.tests:
            return "not covered"
        if self.outcomes["failed"]:
            return f"FAILED ({self.outcomes['failed']} of {self.tests})"
        if not self.outcomes["passed"]:
            return f"skipped: {self.reason}" if self.outcomes else "not run"
        skipped = self.outcomes["skipped"]
        return f"passed, {skipped} skipped: {self.reason}" if skipped else "passed"


class FaultSuite:
    """Pytest plugin: chooses the tests and draws up the table.

    Args:
        chosen: ``--faults`` was given: run the suite instead of everything fast.
    """

    def __init__(self, chosen: bool) -> None:
        self.chosen = chosen
        self.rows = {fault: Row() for fault in FAULTS}
        self.ids: dict[str, tuple[str, ...]] = {}  # test -> faults
        self.outcome: dict[str, str] = defaultdict(lambda: "passed")
        self.whole = False

    @pytest.hookimpl(tryfirst=True)  # sees what -k and -m leave out afterwards
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Note which test injects which fault; leave out what was not asked for."""
        self.whole = _covers_all(config)
        keep: list[pytest.Item] = []
        drop: list[pytest.Item] = []
        for item in items:
            self.ids[item.nodeid] = ids = fault_ids(item)
            for fault in ids:
                self.rows[fault].tests += 1
            (keep if self._wanted(item, config) else drop).append(item)
        if drop:
            config.hook.pytest_deselected(items=drop)
            items[:] = keep

    def _wanted(self, item: pytest.Item, config: pytest.Config) -> bool:
        """Whether the run that was asked for has this test."""
        slow, slurm = (item.get_closest_marker(m) for m in ("slow", "slurm"))
        asked = " ".join(config.args)
        if config.getoption("-m") or "::" in asked:
            return True  # -m decides, or the user did
        if slurm:
            return "slurm" in asked
        return bool(self.ids[item.nodeid] or slow) if self.chosen else not slow

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the part of a test: setup, call or teardown."""
        if report.outcome == "failed":
            self.outcome[report.nodeid] = "failed"
        elif report.outcome == "skipped" and self.outcome[report.nodeid] == "passed":
            self.outcome[report.nodeid] = "skipped"
        for fault in self.ids.get(report.nodeid, ()):
            row = self.rows[fault]
            row.seconds += report.duration
            if report.outcome == "skipped":
                row.reason = getattr(report, "wasxfail", "") or _reason(report)
            if report.when == "teardown":
                row.outcomes[self.outcome[report.nodeid]] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail where a fault has no test at all."""
        if self.chosen and self.uncovered and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @property
    def uncovered(self) -> list[str]:
        """Faults without a test, where all tests were collected."""
        return [f for f, row in self.rows.items() if self.whole and not row.tests]

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Print the table."""
        if not self.chosen or terminalreporter.config.option.collectonly:
            return
        terminalreporter.section("fault suite")
        for line in self.table():
            terminalreporter.line(line)
        if self.uncovered:
            terminalreporter.line(
                f"ERROR: no test injects {', '.join(self.uncovered)}. Mark one: "
                f'@pytest.mark.fault("{self.uncovered[0]}").'
            )

    def table(self) -> Iterable[str]:
        """Yield the lines of the table; a test of two faults counts in both."""
        width = max(map(len, FAULTS.values()))
        yield f"{'id':<4} {'fault':<{width}} {'tests':>5} {'seconds':>8}  result"
        for fault, row in self.rows.items():
            yield (
                f"{fault:<4} {FAULTS[fault]:<{width}} {row.tests:>5} "
                f"{row.seconds:>8.1f}  {row.result}"
            )


def fault_ids(item: pytest.Item) -> tuple[str, ...]:
    """Return the faults of a test.

    Raises:
        pytest.UsageError: A mark names no fault, or one that the suite does not have.
    """
    marks = list(item.iter_markers("fault"))
    ids = tuple(dict.fromkeys(f for mark in marks for f in mark.args))
    wrong = [f for f in ids if f not in FAULTS]
    if wrong or any(not mark.args for mark in marks):
        raise pytest.UsageError(
            f"{item.nodeid}: mark.fault takes ids from R1 to R{len(FAULTS)}, "
            f"got {wrong or 'none'}."
        )
    return ids


def _covers_all(config: pytest.Config) -> bool:
    roots = [config.rootpath / name for name in config.getini("testpaths")]
    asked = [Path(config.invocation_params.dir, a).resolve() for a in config.args]
    return all(any(path in (root, *root.parents) for path in asked) for root in roots)


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr
    if isinstance(text, tuple):  # file, line, "Skipped: reason"
        text = text[2]
    return str(text).removeprefix("Skipped: ").splitlines()[0]
