"""benchmarks/bases.py: which runs it starts, and what it collects."""

from __future__ import annotations

import argparse
import csv
import sys
from itertools import product
from pathlib import Path

import pytest
from mmengine.config import DictAction

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO / "benchmarks"))  # scripts, which import each other

import bases  # noqa: E402
import common  # noqa: E402
import methods  # noqa: E402
import recipe  # noqa: E402

from mmssl_ext.errors import Preempted  # noqa: E402
from mmssl_ext.run import launch  # noqa: E402
from mmssl_ext.visualization.logs import RunLog  # noqa: E402


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return tmp_path


def test_bases_run_by_the_settings_that_their_recipe_has(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    commands = {}

    def call(command, **_) -> int:
        place = Path(command[command.index("--work-dir") + 1])
        commands[place.name] = command
        return 0

    monkeypatch.setattr(methods.subprocess, "call", call)
    args = bases.parse_args(["--out", str(tmp_path), "--repacked"])
    assert bases.main(args) == 1
    assert "Nothing has finished" in capsys.readouterr().out
    names = ("mocov2", "byol", "simclr", "co2", "byol-co2")
    assert list(commands) == [f"{n}-seed{s}" for n in names for s in (0, 1)]
    for name, command in commands.items():
        config, text = command[2], command[command.index("--cfg-options") + 1 :]
        assert "--resume" in command and f"randomness.seed={name[-1]}" in text
        cfg = launch.load_config(REPO / config, parsed(text))
        assert cfg.train_cfg.max_epochs == bases.EPOCHS
        assert cfg.model.type == bases.BASES[name.split("-seed")[0]][1]
        assert cfg.model.backbone.base_channels == 16  # a quarter
        assert cfg.optim_wrapper.optimizer.weight_decay == 5e-4
        assert cfg.train_dataloader.batch_size == 256
        assert not cfg.train_dataloader.dataset.verify_md5
        row = {"config": Path(config).name, "seed": name[-1], "method": cfg.model.type}
        assert recipe.present(bases.NAME, row)[0] == recipe.recipe(cfg)


def parsed(options: list[str]) -> dict:
    """Options of the command line as the tools read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    return parser.parse_args(["--cfg-options", *options]).cfg_options


def test_bases_collect_runs_that_have_reached_the_last_epoch(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log(place: Path) -> RunLog:
        epochs = (0, 2, 4) if place.name == "byol-seed1" else (0, 2)
        return RunLog(train=[], knn=[{"epoch": epoch} for epoch in epochs])

    def rows(place: Path) -> list[dict]:
        return [{"run": place.name, "config": "a.py", "epoch": n} for n in (0, 2, 4)]

    for name, seed in product(bases.BASES, (0, 1)):
        (tmp_path / f"{name}-seed{seed}").mkdir()
    monkeypatch.setattr(bases.logs, "read_run", log)
    monkeypatch.setattr(bases, "run_rows", rows)
    args = bases.parse_args(["--collect", "--out", str(tmp_path)])
    assert bases.main(args) == 0
    with (results / "cifar10_bases_cpu.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["epoch"] for row in found] == ["0", "2", "4"]
    assert "run" not in found[0] and {"torch", "cpu"} <= found[0].keys()


def test_bases_start_nothing_more_after_a_preemption(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([0, Preempted.exit_code, 0])
    monkeypatch.setattr(methods.subprocess, "call", lambda *_, **__: next(codes))
    args = bases.parse_args(["--out", str(tmp_path)])
    assert bases.main(args) == Preempted.exit_code
    assert next(codes) == 0  # the third was never asked for
