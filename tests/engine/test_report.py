import json
import platform
import sys

import numpy
import torch

from mmssl_ext.visualization.hooks.report import ReportHook, run_facts
from tests.harness import BATCH, log_text, toy_runner


def test_report_and_facts_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "a config.py"])
    runner = toy_runner(tmp_path, "reported", ReportHook())
    runner.train()
    (path,) = tmp_path.glob("*/run.json")
    facts = json.loads(path.read_text())
    expected = {
        **{"method": "ToyModel", "dataset": "ToyData 'toys'", "images": 24},
        **{"seed": 3, "batch_size": BATCH, "max_epochs": 2, "max_iters": 12},
        **{"queue_length": None, "system": platform.platform()},
    }
    assert {key: facts[key] for key in expected} == expected
    assert facts["command"].endswith("tools/train.py 'a config.py'")
    versions = facts["versions"]
    assert versions["numpy"] == numpy.__version__
    assert versions["torch"] == str(torch.__version__)
    assert ("mmdet" in versions) == ("mmdet" in sys.modules)
    assert ("CUDA" in versions) != facts["device"].startswith("cpu")
    page = (tmp_path / "report.html").read_text()
    assert "ToyModel on ToyData" in page
    assert "2 epochs, 24 images" in page
    assert (tmp_path / "loss_curve.png").is_file()
    assert f"Report: {tmp_path / 'report.html'}" in log_text(runner)


def test_a_failing_report_does_not_end_the_run(tmp_path, monkeypatch):
    def fail(work_dir):
        raise RuntimeError("no space left")

    monkeypatch.setattr("mmssl_ext.visualization.report.write_report", fail)
    monkeypatch.setattr("mmssl_ext.visualization.hooks.report.run_facts", fail)
    runner = toy_runner(tmp_path, "unreported", ReportHook())
    runner.train()
    assert runner.iter == 12
    text = log_text(runner)
    assert "ERROR" in text and "no space left" in text
    assert f"mmssl_ext.visualization.report {tmp_path}" in text


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path, "report_rank1", ReportHook())
    monkeypatch.setattr(runner, "_rank", 1)
    runner.train()
    assert not list(tmp_path.rglob("run.json"))
    assert not list(tmp_path.glob("*.html"))


def test_queue_length_is_found(tmp_path):
    runner = toy_runner(tmp_path, "queue", epochs=1)
    runner.model.register_buffer("negatives", torch.zeros(5, 2))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    assert run_facts(runner)["queue_length"] == 5
