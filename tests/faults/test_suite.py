"""The suite itself: what runs when, and a table that does not flatter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

CONFTEST = """
import pytest
from tests.faults.suite import FaultSuite

def pytest_addoption(parser):
    parser.addoption("--faults", action="store_true")

def pytest_configure(config):
    for name in ("fault", "slow", "slurm"):
        config.addinivalue_line("markers", name)
    config.pluginmanager.register(FaultSuite(config.getoption("--faults")))
"""
TESTS = """
import pytest

def test_other(): pass

@pytest.mark.fault("R1")
def test_good(): pass

@pytest.mark.slow
@pytest.mark.fault("R1", "R2")
def test_slow(): pass

@pytest.mark.slow
def test_slow_without_fault(): pass

@pytest.mark.fault("R3")
@pytest.mark.parametrize("x", [0, 1, 2])
def test_bad(x): assert x != 1

@pytest.mark.fault("R4")
def test_skipped(): pytest.skip("no GPU")

@pytest.fixture
def broken(): yield; raise OSError

@pytest.mark.fault("R5")
def test_broken_afterwards(broken): pass

@pytest.mark.slurm
@pytest.mark.fault("R6")
def test_slurm(): pass
"""


@pytest.fixture
def project(tmp_path):
    """Run pytest in a project of its own that has this suite."""
    folder = tmp_path / "own"
    folder.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = own\n")
    (folder / "conftest.py").write_text(CONFTEST)

    def run(*args: str, tests: str = TESTS) -> tuple[int, str]:
        (folder / "test_it.py").write_text(tests)
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"]
        env = {"PYTHONPATH": str(REPO)}
        done = subprocess.run(
            [*command, *args], cwd=tmp_path, env=env, text=True, capture_output=True
        )
        return done.returncode, done.stdout + done.stderr

    return run


def rows(output: str) -> dict[str, list[str]]:
    """Tests and result by id."""
    found = re.findall(r"^(R\d+) .*?  (\d+) +[\d.]+  (.*)$", output, re.MULTILINE)
    return {fault: [tests, result] for fault, tests, result in found}


def test_the_table_of_a_run(project):
    code, output = project("--faults")
    assert code == 1
    # test_other and test_slurm are left out; of the broken one the end is an error
    assert "1 failed, 6 passed, 1 skipped, 2 deselected, 1 error" in output
    table = rows(output)
    assert len(table) == 45
    assert table["R1"] == ["2", "passed"]
    assert table["R2"] == ["1", "passed"]
    assert table["R3"] == ["3", "FAILED (1 of 3)"]
    assert table["R4"] == ["1", "skipped: no GPU"]
    assert table["R5"] == ["1", "FAILED (1 of 1)"]
    assert table["R6"] == ["1", "not run"]
    assert table["R7"] == ["0", "not covered"]


def test_a_fault_without_a_test_fails_the_whole_run_only(project):
    good = "@pytest.mark.fault({})\ndef test_good(): pass\n"
    ids = [f"R{i}" for i in range(1, 46)]
    tests = "import pytest\n" + good.format(", ".join(map(repr, ids[:-1])))
    code, output = project("--faults", tests=tests)
    assert code == 1
    assert 'no test injects R45. Mark one: @pytest.mark.fault("R45").' in output
    part = project("--faults", "own/test_it.py", tests=tests)
    assert part[0] == 0  # only a part was asked for
    whole = "import pytest\n" + good.format(", ".join(map(repr, ids)))
    assert project("--faults", tests=whole)[0] == 0


def test_without_the_option_everything_fast_runs(project):
    _, output = project("own")
    ran = set(re.findall(r"::(test_\w+)", output))
    assert "test_other" in ran and "test_good" in ran
    assert not ran & {"test_slow", "test_slow_without_fault", "test_slurm"}
    assert "fault suite" not in output


@pytest.mark.parametrize(
    ("args", "test"),
    [
        (["own/test_it.py::test_slow"], "test_slow"),
        (["-m", "slow and not fault"], "test_slow_without_fault"),
        (["-m", "slurm"], "test_slurm"),
        (["own/test_it.py::test_slurm"], "test_slurm"),
    ],
)
def test_what_is_asked_for_runs(project, args, test):
    code, output = project(*args)
    assert code == 0
    assert re.search(rf"::{test} PASSED", output) and "1 passed" in output


@pytest.mark.parametrize("mark", ['fault("R46")', "fault()", "fault"])
def test_an_unknown_fault_is_refused(project, mark):
    tests = f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass\n"
    code, output = project(tests=tests)
    assert code == 4
    assert "mark.fault takes ids from R1 to R45" in output
