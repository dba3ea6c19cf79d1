"""What every test gets: plots without a display, the same random start, the faults."""

from __future__ import annotations

import gc
import importlib
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.budget import Budgets
from tests.faults.suite import FaultSuite
from tests.machine import Machine
from tests.quick import Quick

if TYPE_CHECKING:
    from tests.ragged import Ragged

os.environ.setdefault("MPLBACKEND", "Agg")
# A store of torch asks for the name of every process that connects. A server of names
# that does not answer would hold it for five seconds, longer than ranks wait here.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

MARKERS = (
    "alone: runs while no other test does; it measures time or memory",
    "fault(*ids): injects these faults of the suite R1 to R45 (docs/faults.md)",
    "matrix: a product of choices, see tests/matrix.py",
    "slow: takes more than about ten seconds; run by --faults, -m slow or its name",
    "slurm: needs a running Slurm; run by -m slurm or the name of its folder",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the fault suite be asked for, or only what takes a moment."""
    parser.addoption(
        "--faults",
        action="store_true",
        help="run the tests marked fault or slow and print a table of the faults",
    )
    parser.addoption(
        "--quick", action="store_true", help="leave out what tests/long.txt lists"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and the suite that reads them."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(FaultSuite(config.getoption("--faults")), "faults")
    config.pluginmanager.register(Machine(), "machine")
    config.pluginmanager.register(Quick(), "quick")
    config.pluginmanager.register(Budgets.of_package(), "budgets")


def seed() -> None:
    """Seed the global generators."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed for every test, so that it does not depend on its order."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """Seed for what tests share, too: it is made before :func:`_seeded` is called."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture(autouse=True, scope="module")
def _default_scope() -> Iterator[None]:
    """Take back the default scope that a file's tests set, so that any order passes."""

    def scopes() -> dict:
        registry = sys.modules.get("mmengine.registry")  # absent: nothing is set yet
        return registry.DefaultScope._instance_dict if registry else {}

    before = dict(scopes())
    yield
    scopes().clear()
    scopes().update(before)


@pytest.fixture(autouse=True, scope="session")
def _quick_runs() -> None:
    """Let the runs of a process share what is the same in all of them.

    What was imported lives to the end: the collector need not look at it again.
    """
    if "mmengine.runner" in sys.modules:
        importlib.import_module("tests.faster").quicken()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _impatient_loaders() -> None:
    """Let torch wait for half a second, not five, before it kills a loader's worker.

    It has to where a loader ends in a cycle, for example with the traceback of a test:
    Python closes the queues first, by which the workers would be told to end.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5


@pytest.fixture(scope="session")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Ragged:
    """A folder of images as people have them, see tests/ragged.py; only to be read."""
    write_ragged = importlib.import_module("tests.ragged").write_ragged
    return write_ragged(tmp_path_factory.mktemp("ragged") / "root")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images of two classes, see tests/harness.py; only to be read."""
    write_images = importlib.import_module("tests.harness").write_images
    return write_images(tmp_path_factory.mktemp("images") / "root")
