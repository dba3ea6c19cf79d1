"""Run pytest so that nothing outlives it, not even after Ctrl-C: no process, no folder.

    python -m tests.supervise [arguments of pytest]

Temporary files lie in one folder, which is deleted in the end; where a test failed, it
stays and is named. A process that loses its parent comes to this one (Linux only),
which kills it once pytest has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


def main(arguments: list[str]) -> int:
    """Run pytest; return its exit code."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    folder = Path(tempfile.mkdtemp(prefix="mmssl-ext-tests-"))
    folder.chmod(0o711)  # a test becomes another user
    code = 130
    try:
        code = run(arguments, folder)
    finally:
        end_children()
        if code == 1 and any((folder / "pytest").glob("*")):
            print(f"Files of the tests that failed are in {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


def run(arguments: list[str], folder: Path) -> int:
    """Run pytest with its temporary files in ``folder``, and reap what is orphaned."""
    (folder / "tmp").mkdir()
    base = ["--basetemp", str(folder / "pytest")]
    # Ctrl-C reaches pytest by itself; what stops this process only is handed on.
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *base, *arguments],
        env=os.environ | {"TMPDIR": str(folder / "tmp")},
    )
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode


def end_children() -> None:
    """Kill what is left, and what that leaves, until there is nothing."""
    while left := list(children()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def children() -> Iterator[int]:
    """Processes whose parent this one is."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after = stat.read_text().rpartition(")")[2].split()
            if int(after[1]) == os.getpid():
                yield int(stat.parent.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
