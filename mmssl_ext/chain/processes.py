"""The processes of a chain's stages: how they start, and how they are stopped."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmssl_ext import interrupt
from mmssl_ext.engine.resilience.lock import Lock
from mmssl_ext.engine.resilience.preemption import SIGNALS
from mmssl_ext.room import writing
from mmssl_ext.text import printable

from .results import LOG_FILE


class Stop(BaseException):
    """A signal (None: sent to a stage) asks the chain to stop."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.number = number


class Processes:
    """Starts the processes of stages, and passes signals on to them.

    Args:
        gpus: Devices of each stage.
        jobs: Stages that run at once; each gets devices of its own as far as there are.

    Attributes:
        guard: Held where a process starts and where something is printed.
        stopping: No further process starts.
    """

    def __init__(self, gpus: int, jobs: int) -> None:
        self.gpus, self.jobs = gpus, jobs
        self.guard = threading.Lock()
        self.stopping = False
        self._started: list[subprocess.Popen] = []

    def call(self, command: list[str], folder: Path, lock: Lock, slot: int) -> int:
        """Run a command until it ends, its output in the stage's log; its exit code.

        The process holds the lock too: it may outlive this one.
        """
        path = folder / LOG_FILE
        with writing(path), path.open("a", encoding="utf-8") as log, self.guard:
            if self.stopping:
                return 1
            log.write(printable(f"$ {shlex.join(command)}\n"))
            log.flush()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(slot),
                start_new_session=True,  # Ctrl-C is ours to pass on
                pass_fds=lock.inheritable,
            )
            self._started.append(process)
        lock.give_to(process.pid)
        return process.wait()

    def environment(self, slot: int) -> dict[str, str]:
        """Environment of a stage; beside others it has its share of the machine."""
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        env.setdefault("PYTHON", sys.executable)
        if self.jobs > 1:
            threads = max((os.cpu_count() or 1) // self.jobs, 1)
            env.setdefault("OMP_NUM_THREADS", str(threads))
            given = os.environ.get("CUDA_VISIBLE_DEVICES")
            count = range(torch.cuda.device_count())
            devices = given.split(",") if given else [str(i) for i in count]
            if len(devices) > 1:
                first = slot * self.gpus
                own = [devices[(first + i) % len(devices)] for i in range(self.gpus)]
                env["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        return env

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let signals stop the stages, not this process."""
        asked = False

        def stop(number: int, _: Any) -> None:
            nonlocal asked
            if asked:  # theirs to judge whether it is the same notice once more
                self._signal_all(signal.SIGTERM)
                return
            asked = True
            interrupt.note()
            if number == signal.SIGHUP:
                interrupt.leave_terminal()
            raise Stop(number)

        before = interrupt.take_over(SIGNALS, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop_all(self, patience: float) -> None:
        """Ask all to stop, and end those that take longer than ``patience`` seconds."""
        with self.guard:  # no further process starts
            self.stopping = True
        self._signal_all(signal.SIGTERM)
        end = time.monotonic() + patience
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0))
        self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: int) -> None:
        for process in self._started:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
