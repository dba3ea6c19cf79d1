"""The tests that `make test-quick` leaves out, as they take about a second or more.

    make test PYTEST_ARGS=--junitxml=a.xml          # on an idle machine
    python -m tests.quick a.xml
    make test-quick PYTEST_ARGS=--junitxml=b.xml    # what now pays for shared fixtures
    python -m tests.quick a.xml b.xml

writes them into tests/long.txt anew: functions with all their cases, or whole files
where little would be left. Add a line by hand for a new test that takes long.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("long.txt")
LONG = 0.8  # seconds
MOST = 0.85  # of the time of a file: more than that is long, and all of it is left out


class Quick:
    """Pytest plugin: leaves out the long tests where ``--quick`` asks for that."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect what the list names."""
        if not config.getoption("--quick"):
            return
        long = set(LIST.read_text().split())
        keep: list[pytest.Item] = []
        drop: list[pytest.Item] = []
        for item in items:
            (drop if long & set(names(item.nodeid)) else keep).append(item)
        config.hook.pytest_deselected(items=drop)
        items[:] = keep


def names(nodeid: str) -> tuple[str, str]:
    """The file of a test, and its function."""
    return nodeid.split("::")[0], nodeid.split("[")[0]


def choose(seconds: dict[str, float]) -> list[str]:
    """What is long, of tests and what each took."""
    functions: dict[str, float] = defaultdict(float)
    files: dict[str, float] = defaultdict(float)
    slowest: dict[str, float] = defaultdict(float)
    for test, taken in seconds.items():
        file, function = names(test)
        functions[function] += taken
        files[file] += taken
        slowest[function] = max(slowest[function], taken)
    long = {x for x, taken in slowest.items() if taken >= LONG}
    for file, whole in files.items():
        inside = {x for x in long if x.startswith(f"{file}::")}
        if sum(functions[x] for x in inside) > MOST * whole and len(inside) > 1:
            long = long - inside | {file}
    return sorted(long)


def read(*reports: str | Path) -> dict[str, float]:
    """Seconds of each test in JUnit reports, the most where several have it."""
    found: dict[str, float] = defaultdict(float)
    for report in reports:
        for case in ET.parse(report).iter("testcase"):
            file = case.attrib["classname"].replace(".", "/") + ".py"
            name = f"{file}::{case.attrib['name']}"
            found[name] = max(found[name], float(case.attrib["time"]))
    return found


if __name__ == "__main__":
    LIST.write_text("\n".join(choose(read(*sys.argv[1:]))) + "\n")
