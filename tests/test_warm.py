"""The warm server runs a command as an interpreter of its own would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.warm import Command, python

SCRIPT = """
import os, sys
sys.path.insert(0, "")
print(__name__, sys.argv[1:], os.getcwd(), os.environ.get("SAID"), sys.path[1])
print("to the other stream", file=sys.stderr)
what = sys.argv[1]
if what == "raise":
    raise ValueError("as told")
if what == "text":
    sys.exit("a sentence")
if what == "signal":
    os.kill(os.getpid(), 9)
if what == "stdin":
    sys.exit(len(sys.stdin.read()))
if what == "imports":
    assert "torch" in sys.modules
    import neighbour
sys.exit(int(what) if what.isdigit() else 0)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").touch()
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.mark.parametrize("what", ["0", "75", "raise", "text", "signal", "stdin"])
def test_it_ends_as_a_process_of_its_own(script: Path, tmp_path: Path, what: str):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SAID": "x"}
    real = subprocess.run(
        [sys.executable, str(script), what, "a b"],
        cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    warm = python(script, what, "a b", cwd=tmp_path, env={"SAID": "x"})
    assert (warm.returncode, warm.stdout) == (real.returncode, real.stdout)
    last = [text.rstrip().rpartition("\n")[2] for text in (warm.stderr, real.stderr)]
    assert last[0] == last[1]


def test_torch_is_there_and_the_neighbours_of_a_script(script: Path, tmp_path: Path):
    done = python(script, "imports", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert python("-c", "import sys; sys.exit(3)").returncode == 3
    assert python("-m", "json.tool", "--help").stdout.startswith("usage:")
    missing = python("gone.py", cwd=tmp_path)
    assert missing.returncode == 2 and "can't open file 'gone.py'" in missing.stderr


def test_a_command_is_read_told_and_ended(tmp_path: Path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        "print('ready', flush=True)\n"
        # One long sleep misses a signal that comes just before it.
        "for _ in range(600): time.sleep(0.1)"
    )
    with Command("-c", code, cwd=tmp_path) as command:
        for line in command.lines(30):
            assert line == "ready\n"
            command.send_signal(signal.SIGTERM)
        assert command.wait() == 75
    late = pytest.raises(subprocess.TimeoutExpired)
    with Command("-c", code, cwd=tmp_path) as command, late:
        command.wait(0.3)
    assert not command.output.exists()
    with Command("-c", code, cwd=tmp_path) as command, late:
        list(command.lines(0.3))
    with Command("-c", code, cwd=tmp_path) as command:
        assert next(command.lines(30)) == "ready\n"
    end = time.monotonic() + 10
    while Path(f"/proc/{command.pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
