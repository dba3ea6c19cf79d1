"""Commands of the tests on the warm server, which the first of them starts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.machine import FOLDER, OWNER, locked

from .client import answer, send

ROOT = Path(__file__).resolve().parents[2]
_started: list[subprocess.Popen] = []  # by this process: one server, or none


def address() -> str:
    """The socket of the test run's server, which the first caller starts.

    Raises:
        RuntimeError: The server has ended; the message has what it printed.
    """
    folder = Path(os.environ[FOLDER])
    place = folder / "warm"
    with locked(folder / "warm.lock"):
        if not place.exists():
            _start(place)
    return str(place)


def _start(place: Path) -> None:
    log = place.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm.server", place, os.environ[OWNER]],
            cwd=ROOT,
            env={
                **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
                **{"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
                **{"CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    _started.append(process)
    waiting = 2
    for line in process.stdout:  # toolboxes print while they are imported
        waiting -= line == "ready\n"
        if not waiting:
            return
    raise RuntimeError(f"The server of the tests ended: {log.read_text()}")


class Late(subprocess.TimeoutExpired):
    """A command has taken too long; the message has what it printed until then."""

    def __str__(self) -> str:
        return f"{super().__str__()}; it had printed {(self.output or '')[-2000:]!r}"


class Command:
    """``python ARGUMENTS`` on the server, in a process group of its own.

    Its standard output and error are one stream unless ``apart``.

    Args:
        *arguments: As on the command line.
        cwd: Where it runs.
        env: Variables on top of this process's, without PYTHONPATH.
        apart: Keep standard error by itself.

    Attributes:
        pid: Of the process.
        output: Path of what it has printed so far.
        errors: The same of standard error.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: str | Path = ROOT,
        env: dict[str, str] | None = None,
        apart: bool = False,
    ) -> None:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        request = {
            "run": "tests.warm.interpreter",
            "program": "python",
            "argv": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "env": kept | {"OMP_NUM_THREADS": "1"} | (env or {}),
            "group": 0,
        }
        self.arguments = request["argv"]
        with contextlib.ExitStack() as stack:
            null = stack.enter_context(open(os.devnull))
            files = [
                stack.enter_context(
                    tempfile.NamedTemporaryFile(dir=os.environ[FOLDER], delete=False)
                )
                for _ in range(1 + apart)
            ]
            streams = [null.fileno(), files[0].fileno(), files[-1].fileno()]
            self.output, self.errors = Path(files[0].name), Path(files[-1].name)
            self._connection, self.pid = send(address() + ".tools", request, streams)
        self.returncode: int | None = None

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 240.0) -> int:
        """Return the exit code: minus the signal where one ended it.

        Raises:
            Late: It takes longer; it is killed.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(answer(self._connection) or 1)
            except TimeoutError:
                self.kill()
                raise Late(self.arguments, timeout, self.text) from None
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        """End it with all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def lines(self, timeout: float = 240.0) -> Iterator[str]:
        """Yield what it prints, line by line, until it ends."""
        end, kept = time.monotonic() + timeout, ""
        with self.output.open() as file:
            while True:
                ended = bool(select.select([self._connection], [], [], 0.01)[0])
                while line := file.readline():
                    kept += line
                    if kept.endswith("\n"):
                        yield kept
                        kept = ""
                if ended:
                    break
                if time.monotonic() > end:
                    self.kill()
                    raise Late(self.arguments, timeout, self.text)
        if kept:
            yield kept
        self.wait()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None:
            self.kill()
        self._connection.close()
        self.output.unlink()
        self.errors.unlink(missing_ok=True)


def python(
    *arguments: str | Path,
    cwd: str | Path = ROOT,
    env: dict[str, str] | None = None,
    timeout: float = 240.0,
) -> subprocess.CompletedProcess[str]:
    """``python ARGUMENTS`` on the server, until it ends; its output is captured.

    Raises:
        Late: It takes longer than ``timeout`` seconds.
    """
    with Command(*arguments, cwd=cwd, env=env, apart=True) as command:
        code = command.wait(timeout)
        texts = command.output.read_text(), command.errors.read_text()
    return subprocess.CompletedProcess(command.arguments, code, *texts)
