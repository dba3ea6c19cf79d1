import fcntl
import io
import itertools
import os
import pty
import struct
import sys
import termios
import threading
import time

import pytest
import termcolor
from mmengine.hooks import Hook
from rich.console import Console

from mmssl_ext.engine.monitor.progress import ProgressHook, _AboveBar
from tests.harness import BATCH, Stopped, log_rows, log_text, stop_at, toy_runner

ESCAPE = "\x1b"


class Slow(Hook):
    """Give every step a length, and say something as another hook would."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        time.sleep(0.01)

    def after_train_epoch(self, runner):
        runner.message_hub.update_scalar("knn/backbone_top1", 12.34)
        runner.logger.info("kNN line of a hook")
        print("plain print")


@pytest.fixture
def terminal(monkeypatch):
    """Two functions: make stdout a terminal of 100 columns; get what it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown = bytearray()

    def read():
        while True:
            try:
                block = os.read(master, 65536)
            except OSError:  # the other end is closed
                return
            if not block:
                return
            shown.extend(block)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = os.fdopen(slave, "w", buffering=1)

    def start():  # in the test itself: pytest changes stdout after a fixture's set-up
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    def finish():
        stream.close()
        reader.join(5)
        return shown.decode()

    yield start, finish
    stream.close()
    os.close(master)


def console_streams(runner):
    handlers = runner.logger.handlers
    return [x.stream for x in handlers if not hasattr(x, "baseFilename")]


def test_bar_on_a_terminal_and_plain_log_file(tmp_path, terminal):
    start, finish = terminal
    stream = start()
    runner = toy_runner(tmp_path, "bar", ProgressHook(refresh=0.0), Slow())
    runner.train()
    assert sys.stdout is stream
    assert console_streams(runner) == [stream]
    shown = finish()
    parts = "epoch 2/2", "12/12", "img/s", "data wait", "lr 1.00e-04", "kNN 12.3 %"
    assert all(part in shown for part in parts)
    assert shown.count("kNN line of a hook") == 2  # other lines stay, above the bar
    assert shown.count("plain print") == 2
    assert "Epoch(train)" not in shown  # what the bar replaces
    assert shown.rfind(ESCAPE + "[?25h") > shown.rfind(ESCAPE + "[?25l")  # cursor
    log = log_text(runner)
    assert log.count("Epoch(train)") == 6
    assert "img_per_s: " in log and "data_wait: " in log
    assert ESCAPE not in log and "━" not in log


def test_interrupt_leaves_a_clean_terminal(tmp_path, terminal):
    start, finish = terminal
    stream = start()
    hooks = ProgressHook(refresh=0.0), stop_at(3, "after_train_iter")
    runner = toy_runner(tmp_path, "interrupted", *hooks)
    with pytest.raises(Stopped):
        runner.train()
    assert sys.stdout is stream
    assert console_streams(runner) == [stream]
    runner.logger.info("Epoch(train) is shown again")
    shown = finish()
    assert "epoch 1/2" in shown
    assert "Epoch(train) is shown again" in shown
    assert shown.rfind(ESCAPE + "[?25h") > shown.rfind(ESCAPE + "[?25l")
    # The last thing drawn is erased: up one line, clear, before anything follows.
    tail = shown[shown.rfind("epoch 1/2") :]
    assert ESCAPE + "[1A" + ESCAPE + "[2K" in tail


def test_without_a_terminal_only_plain_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    # mmengine's colours come from termcolor, which remembers the first stdout it saw.
    getattr(termcolor.can_colorize, "cache_clear", lambda: None)()
    runner = toy_runner(tmp_path, "plain", ProgressHook(refresh=0.0), Slow())
    runner.train()
    printed = "".join(capsys.readouterr())
    assert printed.count("Epoch(train)") == 6
    assert not {ESCAPE, "\r", "━"} & set(printed)
    rows = log_rows(runner)
    assert len(rows) == 6
    for row in rows:  # one window for all: the numbers of a line agree
        assert row["img_per_s"] == pytest.approx(BATCH / row["time"])
        assert row["data_wait"] == pytest.approx(row["data_time"] / row["time"])
        assert 0 <= row["data_wait"] <= 1


def test_bar_is_drawn_by_the_clock_not_by_the_step(tmp_path, terminal, monkeypatch):
    start, finish = terminal
    start()
    drawn = []
    bar = "mmssl_ext.engine.monitor.progress._Bar.draw"
    monkeypatch.setattr(bar, lambda *args: drawn.append(time.monotonic()))
    hook = ProgressHook(refresh=0.05)
    toy_runner(tmp_path, "clock", hook, Slow(), epochs=3).train()
    finish()
    assert 2 <= len(drawn) < 18
    assert min(b - a for a, b in itertools.pairwise(drawn)) >= 0.049


def test_only_rank_0_draws(tmp_path, terminal, monkeypatch):
    start, finish = terminal
    start()
    runner = toy_runner(tmp_path, "rank1", ProgressHook(refresh=0.0), Slow())
    monkeypatch.setattr(runner, "_rank", 1)
    runner.train()
    assert "img/s" not in finish()


def test_a_forked_worker_writes_plainly():
    shown, raw = io.StringIO(), io.StringIO()
    stream = _AboveBar(Console(file=shown), raw)
    stream.write("parent\n")
    stream._pid = -1  # as in a fork
    stream.write("worker\n")
    stream.flush()
    assert shown.getvalue() == "parent\n"
    assert raw.getvalue() == "worker\n"
