"""The test run itself: nothing outlives it, workers keep apart, failures are named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.machine import PORTS, free_port, scope

REPO = Path(__file__).resolve().parents[1]
CONFTEST = """
import pytest
from tests.machine import Machine

def pytest_configure(config):
    config.addinivalue_line("markers", "alone")
    config.pluginmanager.register(Machine())
"""
# Leaves a process behind that nobody waits for, and files.
ORPHAN = """
import os, subprocess, sys, tempfile, time
def test_orphan(tmp_path):
    print("what it printed")
    tempfile.mkdtemp()
    (tmp_path / "big").write_text("x")
    code = "import os, time\\nif os.fork() == 0: os.setsid(); time.sleep(600)"
    subprocess.run([sys.executable, "-c", code])
    {then}
"""
SHARING = """
import os, pathlib, time, pytest
@pytest.mark.parametrize("i", range(6))
@pytest.mark.{mark}
def test_it(i):
    mine = pathlib.Path(os.environ["SEEN"], f"{kind}-{file}-{{i}}")
    mine.touch()
    time.sleep(0.05)
    others = [p.name for p in mine.parent.iterdir() if p != mine]
    assert not others or "{kind}" == "together"
    assert not any(name.startswith("alone") for name in others)
    mine.unlink()
"""


class Project:
    """A project of its own that has the plugin."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temporary = folder / "own", folder / "tmp"
        self.folder.mkdir()
        self.temporary.mkdir()
        self.write("conftest", CONFTEST)
        (self.folder / "pytest.ini").write_text("[pytest]\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / f"{name}.py").write_text(text)

    def run(self, *args: str, code: int = 0, **variables: str) -> str:
        process = self.start(*args, **variables)
        out = process.communicate(timeout=60)[0]
        assert process.returncode == code, out
        return out

    def start(self, *args: str, **variables: str) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        kept |= {"TMPDIR": str(self.temporary), "PYTHONPATH": str(REPO)}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.supervise", "-p", "no:cacheprovider", *args],
            cwd=self.folder,
            env=kept | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def running(self) -> list[str]:
        """Processes that work in the folder of the project."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").resolve() == self.folder:
                    found.append((process / "cmdline").read_text())
            except OSError:
                continue
        return [command for command in found if command]  # none of a zombie


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_nothing_outlives_a_run(project: Project) -> None:
    project.write("test_it", ORPHAN.format(then="pass"))
    assert "1 passed" in project.run("-n", "2", "--dist", "loadfile")
    assert not project.running()
    assert not list(project.temporary.iterdir())


def test_a_failure_is_named_with_its_log_and_its_files_stay(project: Project) -> None:
    project.write("test_it", ORPHAN.format(then="assert 1 == 2"))
    out = project.run(code=1)
    assert "FAILED test_it.py::test_orphan - assert 1 == 2" in out
    assert "what it printed" in out
    assert not project.running()
    (folder,) = project.temporary.iterdir()
    assert f"Files of the tests that failed are in {folder}" in out
    assert len(list(folder.rglob("big"))) == 1


@pytest.mark.parametrize(("workers", "told"), [("0", "first"), ("2", "all")])
def test_ctrl_c_leaves_no_process_and_no_folder(
    project: Project, workers: str, told: str
) -> None:
    """A terminal tells the whole group, ``kill`` the first process alone."""
    then = "open('begun', 'w'); time.sleep(60)"
    project.write("test_it", ORPHAN.format(then=then))
    process = project.start("-n", workers, "--dist", "loadfile")
    end = time.monotonic() + 60
    while not (project.folder / "begun").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    if told == "all":
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 2, out
    assert "KeyboardInterrupt" in out
    assert not project.running()
    assert not list(project.temporary.iterdir())


def test_alone_means_alone(project: Project, tmp_path: Path) -> None:
    for i, mark in enumerate(("usefixtures()", "alone", "usefixtures()")):
        kind = "alone" if mark == "alone" else "together"
        project.write(f"test_{i}", SHARING.format(mark=mark, kind=kind, file=i))
    seen = tmp_path / "seen"
    seen.mkdir()
    out = project.run("-n", "3", "--dist", "loadfile", SEEN=str(seen))
    assert "18 passed" in out


def test_workers_never_share_a_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    found = []
    for worker in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{worker}")
        found.append({free_port() for _ in range(20)})
        assert {(port - PORTS[0]) % 3 for port in found[-1]} == {worker}
    assert len(set.union(*found)) == sum(map(len, found))


def test_a_file_and_a_page_stay_on_one_worker() -> None:
    assert scope("tests/a/test_b.py::test_c[x::y]") == "tests/a/test_b.py"
    blocks = "tests/docs/test_blocks.py::test_block"
    assert scope(f"{blocks}[docs/a.md:3]") == scope(f"{blocks}[docs/a.md:9]")
    assert scope(f"{blocks}[docs/a.md:3]") != scope(f"{blocks}[README.md:3]")
    assert scope("tests/docs/test_blocks.py::test_x") == "tests/docs/test_blocks.py"


BUDGETS = """
import pytest, tests.budget
from tests.matrix import pairwise

def pytest_configure(config):
    for name in ("matrix", "slow"):
        config.addinivalue_line("markers", name)
    tests.budget.METHOD, tests.budget.MATRIX = {method}, {matrix}
    config.pluginmanager.register(tests.budget.Budgets({{"co2": 1, "moco": 2}}))
"""
SPENDING = """
import pytest, subprocess, sys, time
from tests.matrix import pairwise

def spend(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

@pytest.fixture
def costly():
    spend(0.2)

@pytest.mark.parametrize("name", ["CO2", "none"])
def test_it(name, costly):
    code = "import time\\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", code])
    time.sleep(1.0)

@pairwise(a="ab", b="cd")
def test_matrix(a, b):
    spend(0.1)
"""


@pytest.mark.parametrize(
    ("method", "matrix", "code", "said"),
    [
        # CO2 spends 0.4 s of processor time, and waits for 1 s
        pytest.param(0.8, 0.5, 0, [], marks=pytest.mark.slow),
        (0.15, 0.15, 1, ["method co2", "matrix test_it.py::test_matrix"]),
    ],
)
def test_a_method_that_costs_too_much_is_named(project, method, matrix, code, said):
    project.write("conftest", BUDGETS.format(method=method, matrix=matrix))
    project.write("test_it", SPENDING)
    out = project.run("-n", "2", code=code)
    assert [x for x in said if f"FAILED The tests of the {x}" in out] == said
    assert out.count("The tests of the") == len(said)
