"""Ctrl-C and a closed terminal: saved, a sentence, an exit code, and no traceback."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest
from mmengine.hooks import Hook

from mmssl_ext import interrupt
from mmssl_ext.engine.resilience import preemption
from mmssl_ext.engine.resilience.preemption import StopSignals
from mmssl_ext.run import launch
from mmssl_ext.run.launch import train
from mmssl_ext.run.tool import run_tool
from tests.distributed import wait_for
from tests.engine import test_preemption
from tests.engine.test_preemption import (
    STEPS,
    Signal,
    assert_goes_on,
    run,
    saved,
    start,
    steps,
    toy,
)
from tests.harness import REPO
from tests.harness import Watch as Events
from tests.warm import Command

INT, HUP = signal.SIGINT, signal.SIGHUP
whole = test_preemption.whole


@pytest.fixture(autouse=True)
def handlers():
    """Those of pytest, which a tool that was interrupted does not give back."""
    before = {number: signal.getsignal(number) for number in interrupt.TERMINAL}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupt._first = interrupt._signal = None


@pytest.mark.fault("R8", "R33")
@pytest.mark.parametrize(("number", "workers"), [(INT, 2), (HUP, 0)])
def test_a_run_is_saved_and_goes_on(tmp_path, whole, number, workers):
    cfg = toy(tmp_path / "run", workers)
    text = run(cfg, Signal(2, number, group=True), code=75)
    assert steps(text) == [1, 2, 3] and "Traceback" not in text
    assert f"The run was stopped by {number.name} in epoch 1 after iteration 3" in text
    assert_goes_on(cfg, text, whole[True])


class Terminal(Hook):
    """Makes a terminal that of this process, and writes on it at each step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def before_run(self, runner):
        os.setsid()
        opened = os.open(self.path, os.O_RDWR)  # now the terminal of the session
        os.dup2(opened, 1)
        os.dup2(opened, 2)

    def after_train_iter(self, runner, *args, **kwargs):
        time.sleep(0.05)


@pytest.mark.fault("R8", "R33")
def test_a_closed_terminal(tmp_path, whole):
    cfg = toy(tmp_path / "run")
    cfg.default_hooks.progress = {"type": "mmssl_ext.ProgressHook", "bar": True}
    cfg.default_hooks.progress["refresh"] = 0.0
    outside, inside = os.openpty()
    with start(cfg, Terminal(os.ttyname(inside))) as found:
        seen = b""
        while b"[step 3]" not in seen:
            seen += os.read(outside, 10_000)
        os.close(outside)
        wait_for(found, 40)
        os.close(inside)
        assert found[0].code == 75, found[0].text
    done = saved(cfg)["meta"]["iter"]
    assert 3 <= done < STEPS
    cfg.default_hooks.pop("progress")
    assert_goes_on(cfg, "".join(f"[step {i + 1}]" for i in range(done)), whole[True])


def test_what_was_ignored_stays_ignored():
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (INT, HUP)}
    watch = StopSignals()
    try:
        watch.install()
        with interrupt.raised():
            assert signal.getsignal(HUP) == signal.getsignal(INT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == watch._handle
    finally:
        watch.give_back()
        for number, handler in before.items():
            signal.signal(number, handler)


def test_an_interactive_session_gets_its_handlers_back():
    watch = StopSignals()
    before = signal.getsignal(INT)
    watch.install()
    os.kill(os.getpid(), INT)
    assert watch.asked == INT
    term = signal.getsignal(signal.SIGTERM)
    watch.give_back()
    assert signal.getsignal(INT) == before
    assert signal.getsignal(signal.SIGTERM) == term  # the notice may come once more
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert preemption.current() is None


@pytest.mark.parametrize(
    ("number", "code", "other"), [(INT, 130, False), (HUP, 129, True)]
)
def test_a_tool_says_a_sentence(capfd, number, code, other):
    def tool():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except BaseException:
            if other:  # as a library might
                raise RuntimeError("something else") from None
            raise

    assert run_tool(tool)() == code
    assert capfd.readouterr().err == f"Stopped by {number.name}.\n"


def interpreter(program):
    """Run it in an interpreter of its own; its exit code, and what it printed."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_second_ctrl_c_ends_a_tool_that_does_not_end():
    program = """if True:
        import os, signal, time
        from mmssl_ext import interrupt

        @interrupt.explained
        def main():
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGINT)  # the first one once more
                print("cleans up", flush=True)
                time.sleep(interrupt.SAME + 0.1)
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)

        main()
    """
    assert interpreter(program) == (130, "cleans up\n", "")


@pytest.mark.parametrize(("number", "code"), [(HUP, 75), (INT, None)])
def test_ctrl_c_during_the_imports(number, code):
    program = (
        "import os, time\nfrom mmssl_ext.interrupt import at_once\n"
        f"with at_once({code}):\n    os.kill(os.getpid(), {int(number)})\n"
        "    time.sleep(10)"
    )
    said = f"Stopped by {number.name} before anything was done.\n"
    assert interpreter(program) == (code or 130, "", said)


STOPS = {  # what a program does that runs a tool until it is told to stop
    "imports": """
        class Stops(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "mmssl_ext.run.tool":
                    stop()

        sys.meta_path.insert(0, Stops())
    """,
    "reads its config": "from mmssl_ext.run import tool; tool.take_config = stop",
}


@pytest.mark.parametrize("place", STOPS)
def test_ctrl_c_while_a_training_starts(place):
    """A scheduler starts a training again that has ended by 75, and no other."""
    tool = REPO / "tools" / "train.py"
    program = (
        "import importlib.abc, os, runpy, sys, time\n"
        f"stop = lambda *_: os.kill(os.getpid(), {int(INT)}) or time.sleep(10)\n"
        f"{textwrap.dedent(STOPS[place])}\nsys.argv = ['train.py', 'x.py']\n"
        f"runpy.run_path({str(tool)!r}, run_name='__main__')"
    )
    said = "Stopped by SIGINT before anything was done.\n"
    assert interpreter(program) == (75, "", said)


def interrupted(*_, **__):
    os.kill(os.getpid(), INT)
    time.sleep(10)


def wrapped(*_, **__):
    """As mmengine does where it formats the config."""
    try:
        interrupted()
    except BaseException as error:
        raise SyntaxError("Failed to format the config file") from error


def swallowed(*args):
    with contextlib.suppress(KeyboardInterrupt):
        interrupted()
    return build(*args)


def when_trained(*args):
    runner = build(*args)
    runner.register_hook(Events(after_run=interrupted))
    return runner


build = launch.build_runner
SAVED_NOTHING = "where it could not save. Nothing was to be saved yet; start it again."
SAVED = "where it could not save. The newest checkpoint there is {}; go on with"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (interrupted, SAVED_NOTHING),
        (wrapped, SAVED_NOTHING),
        (when_trained, SAVED),
        (swallowed, "No step was done, so there is nothing to save; start it again."),
    ],
)
def test_a_run_outside_of_its_loop(tmp_path, monkeypatch, capfd, how, words):
    toy(tmp_path / "run").dump(str(tmp_path / "config.py"))
    monkeypatch.setattr(launch, "build_runner", how)
    assert run_tool(partial(train, tmp_path / "config.py"))() == 75
    said = capfd.readouterr()
    assert words.format(tmp_path / "run" / "epoch_2.pth") in said.out + said.err
    if how is not swallowed:
        sentence = f"The run in {tmp_path / 'run'} was stopped by SIGINT where"
        assert said.err.splitlines()[-1].startswith(sentence)
    assert not Path(tmp_path / "run" / "run.lock").exists()


@pytest.mark.fault("R8")
@pytest.mark.parametrize(("codes", "expected"), [((75, 75), 75), ((75, 0), 1)])
def test_torchrun_passes_on_that_all_ranks_have_saved(tmp_path, codes, expected):
    (tmp_path / "rank.py").write_text(
        "import os, signal, sys, time\n"
        "rank = int(os.environ['RANK'])\n"
        f"leave = lambda *_: os._exit({codes}[rank])\n"
        "signal.signal(signal.SIGINT, leave)\n"
        "print('ready', flush=True)\n"
        "for _ in range(600): time.sleep(0.1)\n"  # one long sleep can miss it
    )
    options = ("--standalone", "--nproc_per_node=2", "--monitor-interval=0.1")
    tool = REPO / "tools" / "torchrun.py"
    with Command(tool, *options, "rank.py", cwd=tmp_path) as process:
        ready = 0
        for line in process.lines():
            ready += "ready" in line
            if ready == 2 and "ready" in line:
                process.send_signal(INT)
        assert process.wait(60) == expected, process.text
        assert ("Traceback" in process.text) == (expected == 1)
