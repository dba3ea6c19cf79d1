"""A full disk: a sentence with the path and the bytes free, and exit code 2."""

from __future__ import annotations

import errno
import os
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mmssl_ext.chain import results as chain_results
from mmssl_ext.datasets.shard_writer import make_shards
from mmssl_ext.evaluation.features import Features
from mmssl_ext.interrupt import explained
from mmssl_ext.room import no_room
from mmssl_ext.run import evaluate as testing
from mmssl_ext.run import launch
from mmssl_ext.run.launch import train
from mmssl_ext.run.tool import run_tool
from mmssl_ext.transfer.export import LAYOUTS, export_backbone
from mmssl_ext.visualization import curves
from tests.engine.test_checkpoint_writing import file_size_limit
from tests.engine.test_preemption import toy
from tests.harness import RunHarness, Watch, write_images
from tests.transfer.support import source_checkpoint

FREE = r"\d+ bytes are free there"


def features(folder):
    found = Features({"backbone": torch.zeros(99, 99)}, None, ["x"] * 99)
    testing._write(folder / "features.npz", found)


def export(layout, folder):
    export_backbone(folder / "source.pth", folder / "out", [layout])


def figure(folder):
    shown = Figure()
    shown.subplots().imshow(np.random.default_rng(0).random((64, 64)))
    curves.save_png(shown, folder / "figure.png")


def state_of_a_chain(folder):
    chain_results.write_json(folder / "stage.json", {"text": "x" * 20_000})


def shards(folder):
    make_shards(str(write_images(folder / "images")), str(folder / "shards"))


WRITERS = {
    "features.npz": features,
    "figure.png": figure,
    "stage.json": state_of_a_chain,
    "UNFINISHED.txt": shards,
    **{f"out{end}": partial(export, layout) for layout, end in LAYOUTS.items()},
}


@pytest.mark.fault("R35")
@pytest.mark.parametrize("name", WRITERS)
def test_a_tool_says_which_file_and_what_room(tmp_path, capfd, name):
    source_checkpoint(tmp_path / "source.pth")

    def write():
        with file_size_limit(10_000):
            WRITERS[name](tmp_path)

    assert run_tool(write)() == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said and said.count("\n") == 1
    assert re.search(
        rf"{re.escape(name)} could not be written: File too large; {FREE}\. Make room",
        said,
    ), said
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {"source.pth", "images", "shards"}


@pytest.mark.fault("R35")
def test_a_log_that_finds_no_room_ends_a_run_that_goes_on_later(tmp_path, capfd):
    cfg = toy(tmp_path / "run")
    cfg.dump(str(tmp_path / "config.py"))
    limits = []

    def fill(runner):
        if runner.iter == 5:  # after a checkpoint
            size = max(x.stat().st_size for x in Path(runner.log_dir).glob("*.log"))
            limits.append(file_size_limit(size + 10))
            limits[0].__enter__()
        runner.logger.info("a line of the log")

    def with_hook(build, *args):
        runner = build(*args)
        runner.register_hook(Watch(before_train_iter=fill))
        return runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "build_runner", partial(with_hook, launch.build_runner))
        try:
            code = run_tool(partial(train, tmp_path / "config.py"))()
        finally:
            limits[0].__exit__(None, None, None)
    said = capfd.readouterr().err
    assert code == 2 and "Traceback" not in said and "Logging error" not in said
    assert re.search(
        rf"Error: {tmp_path}/run/.*\.log could not be written: File too large; {FREE}\."
        r" Make room, .* then go on with --resume\.\n$",
        said,
    ), said
    assert not (tmp_path / "run" / "run.lock").exists()
    assert run_tool(partial(train, tmp_path / "config.py", resume=True))() == 0
    assert RunHarness(tmp_path / "run").saved()["meta"]["iter"] == 8


@pytest.mark.fault("R35")
def test_a_run_whose_error_names_no_file(tmp_path, capfd, monkeypatch):
    """As mmengine's scalars: the work_dir is named then."""
    toy(tmp_path / "run").dump(str(tmp_path / "config.py"))

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(launch, "build_runner", fail)
    assert run_tool(partial(train, tmp_path / "config.py"))() == 2
    start = f"Error: {tmp_path / 'run'} could not be written: No space left on device; "
    assert capfd.readouterr().err.splitlines()[-1].startswith(start)


@pytest.mark.fault("R35")
def test_a_report_that_finds_no_room_leaves_the_run_complete(tmp_path, monkeypatch):
    cfg = toy(tmp_path / "run")
    cfg.default_hooks.report = {"type": "mmssl_ext.ReportHook"}

    def fail(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "report.html")

    monkeypatch.setattr("mmssl_ext.visualization.report.write_report", fail)
    runner = RunHarness.of(cfg).train()
    assert runner.iter == 8
    (log,) = Path(runner.log_dir).glob("*.log")
    assert "report.html could not be written: Disk quota exceeded" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.fault("R35")
def test_what_cannot_be_printed_is_no_success(monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run_tool(lambda: print("the result"))() == 2
    said = capfd.readouterr().err
    assert said == (
        "Error: the output could not be written: [Errno 28] No space left on device.\n"
    )


@pytest.mark.fault("R35")
def test_commands_without_a_frame(capfd):
    @explained
    def main():
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/nowhere/report.html")

    assert main() == 2
    start = "Error: /nowhere/report.html could not be written: Read-only file system;"
    assert capfd.readouterr().err.startswith(start)


@pytest.mark.fault("R35")
def test_other_errors_are_no_matter_of_room():
    found = OSError(errno.ENOSPC, "full")
    error = RuntimeError("writer failed")
    error.__context__ = found
    assert no_room(error) is found
    assert no_room(RuntimeError("I/O error (os error 28)")).errno == errno.ENOSPC
    assert no_room(OSError(errno.EIO, "broken")) is None
    assert no_room(RuntimeError("(os error 5)")) is None
