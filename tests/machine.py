"""What the workers of a test run share: a folder, ports, and sometimes the machine.

A test marked ``alone`` runs while no other one does: it measures time or memory, or it
needs all processors. All tests of a file run on one worker, so that fixtures of a
module are made once; a page of the documentation counts as a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER, OWNER = "TESTS_FOLDER", "TESTS_PID"  # of the test run; see tests/warm
PORTS = range(20_000, 32_000)  # Linux gives others to whoever asks for any
_PAGE = re.compile(r"test_blocks\.py::\w+\[([\w./-]+\.md)")


def workers() -> int:
    """Number of the run's workers; 1 where pytest runs the tests itself."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def free_port() -> int:
    """A port that no other worker is given and that nothing listens on."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    mine = PORTS[int(name.removeprefix("gw")) % workers() :: workers()]
    while True:
        port = random.SystemRandom().choice(mine)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all workers of the run have in common."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this name; whoever else wants it waits, in any process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Machine:
    """Pytest plugin: the folder of the run, the locks, and who runs what."""

    def __init__(self) -> None:
        self.owner = "PYTEST_XDIST_WORKER" not in os.environ

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the folder, in the process that the user started."""
        if self.owner:
            os.environ[FOLDER] = tempfile.mkdtemp(prefix="tests-")
            os.environ[OWNER] = str(os.getpid())

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        """Delete it."""
        if self.owner:
            shutil.rmtree(os.environ.pop(FOLDER), ignore_errors=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run a test beside others, or alone."""
        with held(alone=item.get_closest_marker("alone") is not None):
            return (yield)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: object) -> object:
        """Deal out whole files in their order."""
        if config.getvalue("dist") != "loadfile":
            return None
        from xdist.scheduler import LoadScopeScheduling

        class ByFile(LoadScopeScheduling):
            def _split_scope(self, nodeid: str) -> str:
                return scope(nodeid)

        config.option.loadscopereorder = False
        return ByFile(config, log)


def scope(nodeid: str) -> str:
    """What runs on one worker: the tests of a file, or of a page of the docs."""
    page = _PAGE.search(nodeid)
    return page[1] if page else nodeid.split("::")[0]


@contextlib.contextmanager
def held(alone: bool) -> Iterator[None]:
    """Hold the machine, with the other workers or alone."""
    if workers() == 1:
        yield
        return
    folder = Path(os.environ[FOLDER])
    # Not flock, as in `locked`: what a test forks and leaves would go on holding it.
    with (folder / "machine").open("w+") as machine:
        # Who waits to be alone keeps the gate, so that nobody else begins meanwhile.
        with (folder / "gate").open("w+") as gate:
            fcntl.lockf(gate, fcntl.LOCK_EX)
            fcntl.lockf(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
