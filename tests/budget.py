"""What the tests of a method may cost, so that there is room for many methods.

Every method has 15 seconds of processor time in `make test`, a file with three methods
45, a base on which everything else is tried 45 too, and every matrix
(:mod:`tests.matrix`) 60. On a slower processor the seconds are as many more as those of
the whole suite. What is over that is named at the end of a run; from twice as much on,
the run fails.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

METHOD, MATRIX = 15.0, 60.0  # seconds
BASES = ("byol", "method", "moco", "simsiam")  # terms and backbones are tried on these
SUITE = 1320.0  # seconds of all tests on the processor that these are meant for
ALGORITHMS = Path(__file__).resolve().parents[1] / "mmssl_ext" / "models" / "algorithms"
PROPERTY = "processor seconds"


class Budgets:
    """Pytest plugin: adds up what the tests of each method cost.

    Args:
        methods: Names of files of algorithms, and how many algorithms each has.
    """

    def __init__(self, methods: dict[str, int]) -> None:
        self.methods = dict(sorted(methods.items(), reverse=True))  # longer names first
        self.spent: Counter[str] = Counter()
        self.start = 0.0

    @classmethod
    def of_package(cls) -> Budgets:
        """The budgets of the algorithms."""
        register = "@MODELS.register_module()"
        counts = {
            p.stem: p.read_text().count(register) for p in ALGORITHMS.glob("*.py")
        }
        counts |= dict.fromkeys(BASES, 3)
        return cls({name: count for name, count in counts.items() if count})

    def pytest_runtest_logstart(self) -> None:
        """Note the time before a test and its fixtures."""
        self.start = processor_time()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo
    ) -> Iterator[pytest.TestReport]:
        """Put into the report of the teardown what the test took."""
        report = yield
        if call.when == "teardown":
            report.user_properties.append((PROPERTY, processor_time() - self.start))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add it to the method or the matrix that the test is for."""
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "teardown":
                self.spent[self.owner(report)] += value

    def owner(self, report: pytest.TestReport) -> str:
        """A matrix by file and function, a method by name, or nothing.

        A test is for a method if its file or one of its parameters begins with the name
        of the method.
        """
        path, _, test = report.nodeid.partition("::")
        function, _, parameters = test.partition("[")
        if "matrix" in report.keywords:
            return f"{path}::{function}"
        words = re.split(r"[^a-z0-9]+", parameters.lower())
        words.append(Path(path).stem.removeprefix("test_"))
        for method in self.methods:
            if any(word.startswith(method) for word in words):
                return method
        return ""

    def over(self, times: float = 1.0) -> list[str]:
        """Who spent more than so many times the budget."""
        return [
            name
            for name, spent in self.spent.most_common()
            if name and spent > times * self.budget(name)
        ]

    def budget(self, name: str) -> float:
        """Seconds of a method or matrix."""
        seconds = MATRIX if "::" in name else METHOD * self.methods[name]
        return seconds * max(1.0, self.spent.total() / SUITE)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Fail a run with a method that costs far too much."""
        if self.over(2) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return (yield)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> None:
        """Name who is over budget."""
        for name in self.over():
            verdict = "FAILED" if name in self.over(2) else "Note:"
            kind, most = "matrix" if "::" in name else "method", self.budget(name)
            terminalreporter.write_line(
                f"{verdict} The tests of the {kind} {name} took "
                f"{self.spent[name]:.0f} s of processor time of {most:.0f}. Make them "
                "smaller or let them share runs; mark repetitions of what "
                "another test covers as slow."
            )


def processor_time() -> float:
    """Seconds of this process and of those it has waited for."""
    return sum(os.times()[:4])
