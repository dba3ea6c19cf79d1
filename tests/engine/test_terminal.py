"""A terminal shows a few lines, the first step at once; the log file has the rest."""

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmssl_ext.run.launch import train
from mmssl_ext.run.terminal import StartHook, _checkpoints, quieten
from tests.harness import REPO, config
from tests.warm.commands import python


@pytest.fixture
def cfg(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PHOTOS", str(images))
    cfg = config(Path("{{$PHOTOS:}}"), tmp_path / "run")
    path = tmp_path / "mine.py"
    path.write_text(cfg.pretty_text)
    return path


def test_a_run_begins_with_a_few_lines(cfg, images, tmp_path, capfd):
    train(cfg)
    lines = "".join(capfd.readouterr()).splitlines()
    first = next(i for i, line in enumerate(lines) if "Step 1 is done after" in line)
    start = "\n".join(lines[:first])
    assert first < 15
    assert "loss" in lines[first]
    assert f"PHOTOS={images} of the environment is in the config." in start
    assert (
        "MoCo with ResNet 18 on cpu: 1 epoch of 4 batches, 4 images at a time." in start
    )
    assert f"Images: 16 (ImageFolder, {images})." in start
    assert "Weights: fresh" in start
    log = next((tmp_path / "run").glob("*/*.log"))
    assert f"Log: {log.parent}." in start
    written = log.read_text()
    for text in ("System environment:", "\nmodel = dict(", "in the following order"):
        assert text in written
        assert text not in "\n".join(lines)
    assert not [line for line in lines if "deprecated" in line]


def test_nothing_is_printed_before_what_is_refused(cfg, tmp_path, capfd):
    train(cfg)
    capfd.readouterr()
    again = python(REPO / "tools" / "train.py", cfg, cwd=tmp_path)
    said = (again.stdout + again.stderr).splitlines()
    assert again.returncode == 2
    assert len(said) == 1 and "holds a run" in said[0], said


def test_what_a_terminal_is_spared_is_in_the_file(tmp_path):
    logger = logging.Logger("mmengine")
    stream = io.StringIO()
    logger.addHandler(logging.StreamHandler(stream))
    logger.addHandler(logging.FileHandler(tmp_path / "log"))
    quieten(logger)
    quieten(logger)
    spared = ["Config:\nmodel = 1", "paramwise_options -- bn1.weight:lr=1"]
    for text in (*spared, "Config files are read.", "a table\nof two lines"):
        logger.info(text)
    assert stream.getvalue() == "Config files are read.\na table\nof two lines\n"
    assert all(text in (tmp_path / "log").read_text() for text in spared)


def test_the_weights_of_a_detector_are_named():
    init = {"type": "Pretrained", "checkpoint": "r50.pth"}
    model = {"backbone": {"init_cfg": init}, "heads": [{"init_cfg": dict(init)}, {}]}
    assert list(_checkpoints(model)) == ["r50.pth", "r50.pth"]
    assert not list(_checkpoints({"init_cfg": None, "neck": {"init_cfg": {}}}))


def test_what_is_unknown_of_a_run_ends_none():
    said = []
    stream = SimpleNamespace(__iter__=None)
    loader = SimpleNamespace(dataset=stream, batch_size=None, batch_sampler=object())
    runner = SimpleNamespace(
        model=torch.nn.Identity(),
        train_dataloader=loader,
        max_iters=1,
        max_epochs=2,
        log_processor=SimpleNamespace(by_epoch=True),
        world_size=2,
        cfg={},
        log_dir="run/log",
        iter=0,
        logger=SimpleNamespace(info=said.append),
    )
    hook = StartHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, outputs={"loss": 0.5})
    start = "Identity: 2 epochs, some images at a time on each of 2 ranks."
    assert said[:2] == [start, "Images: a stream (SimpleNamespace)."]
    assert said[2] == "Weights: fresh. Log: run/log."
    assert said[3].endswith("s, loss 0.5000.")
