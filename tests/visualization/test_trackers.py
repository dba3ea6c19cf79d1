"""W&B and MLflow, the real packages: without a network, into the folder of the run."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub

from mmssl_ext.errors import ConfigError
from mmssl_ext.visualization.logs import read_run
from mmssl_ext.visualization.trackers import OneRun
from tests.harness import Stopped, config, knn, make_runner, stop_at

STOP = 11  # iterations, of 16; checkpoints are at every fourth


@pytest.fixture
def no_network(monkeypatch):
    """Let no connection leave this machine, and W&B write to files."""
    connect = socket.socket.connect

    def local(self, address):
        own = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost")
        assert own, f"a connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    yield
    if "wandb" in sys.modules:  # end its process, and forget these variables
        sys.modules["wandb"].teardown()


def train(images: Path, work_dir: Path, *hooks, resume: bool = False) -> None:
    cfg = config(
        images,
        work_dir,
        epochs=4,
        knn=knn(images),
        collapse={"type": "CollapseMonitorHook", "interval": 2},
        learned={"type": "LearnedPicturesHook", "max_images": 8, "kinds": ["filters"]},
    )
    make_runner(cfg, *hooks, wandb=True, mlflow=True, resume=resume).train()


def wandb_records(path: Path) -> Iterator:
    """The records of a file of W&B: of blocks of 32 KiB, a format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_curves(work_dir: Path) -> tuple[set[str], dict[str, list]]:
    """Ids of the runs in all files, and iteration and value of each name."""
    ids, curves = set(), {}
    for path in sorted(work_dir.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            ids |= {record.run.run_id} - {""}
            row: dict = {}
            for item in record.history.item:
                name, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:
                    value = row.get(name, {}) | {inner[0]: value}
                row[name] = value
            at = row.pop("iter", None)
            for name, value in row.items():
                if not name.startswith("_"):
                    curves.setdefault(name, []).append((at, value))
    return ids, curves


def test_a_stopped_and_resumed_training_is_one_run_with_one_curve(
    images, tmp_path, no_network
):
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    with pytest.raises(Stopped):
        train(images, tmp_path, stop_at(STOP))
    train(images, tmp_path, resume=True)

    log = read_run(tmp_path)
    assert [row["step"] for row in log.train] == [*range(2, 17, 2)]
    wanted = {name: [*zip(*log.series(name), strict=True)] for name in log.train[0]}
    ids, curves = wandb_curves(tmp_path)
    assert len(ids) == 1 and len([*tmp_path.glob("wandb/offline-run-*")]) == 2
    client = mlflow.MlflowClient(f"file://{tmp_path}/mlruns")
    (experiment,) = client.search_experiments(filter_string="name = 'mmssl_ext'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == tmp_path.name
    for name in ("loss", "lr", "health/std_ratio"):
        assert curves[name] == wanted[name]
        points = client.get_metric_history(run.info.run_id, name)
        assert [(x.step, x.value) for x in points] == wanted[name]
    epochs = [4 * epoch for epoch in log.knn_series("backbone")[0]]
    points = client.get_metric_history(run.info.run_id, "knn/backbone_top1")
    assert [x.step for x in points] == epochs == [0, 4, 8, 12, 16]
    assert [at for at, _ in curves["knn/backbone_top1"]] == epochs
    ((at, picture),) = curves["pictures/filters"]
    assert (at, picture["_type"]) == (16, "image-file")
    artifacts = f"mlruns/{experiment.experiment_id}/{run.info.run_id}/artifacts"
    assert (tmp_path / artifacts / "config.py").is_file()
    assert [*(tmp_path / artifacts / "images").glob("*.png")]
    assert run.data.params["optim_wrapper.optimizer.lr"] == "0.05"


def test_wandb_without_a_login_is_refused_before_training(
    images, tmp_path, no_network, monkeypatch
):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match=r"--wandb: W&B .*WANDB_MODE=offline"):
        make_runner(config(images, tmp_path), wandb=True)


class Collected(OneRun):
    """A tracker that keeps what it is sent, in memory."""

    name = "mine"

    def __init__(self, work_dir: Path, start: int) -> None:
        self.folder = work_dir / str(start) / "vis_data"
        self.folder.mkdir(parents=True)
        self._settle(str(self.folder))
        self.rows: list[tuple[int, dict]] = []
        self.started = True

    def send_config(self, config):
        self.run = self.run or "new"

    def send(self, values, at):
        self.rows.append((at, values))

    def finish(self, failed):
        self.failed = failed


class Slow(Collected):
    at_once = False


def started(kind, work_dir: Path, start: int, resume: bool):
    tracker = kind(work_dir, start)
    tracker.add_config(Config({"resume": resume}))
    return tracker


@pytest.fixture
def hub():
    return MessageHub.get_instance("test_trackers", log_scalars={}, runtime_info={})


def test_what_a_killed_start_did_not_send_is_sent_by_the_next(tmp_path, hub):
    for kind, arrived in ((Collected, []), (Slow, [(2, {"a": 1.0}), (4, {"b": 2.0})])):
        work_dir = tmp_path / kind.__name__
        first = started(kind, work_dir, 1, False)
        lines = [{"a": 1.0, "step": 2}, {"b": 2.0, "step": 4}, {"a": 9.0, "step": 6}]
        for line in lines:
            first.add_scalars(
                {k: v for k, v in line.items() if k != "step"}, line["step"]
            )
        text = "\n".join(map(json.dumps, lines)) + '\n{"a": 3'  # cut short
        (first.folder / "scalars.json").write_text(text)
        second = started(kind, work_dir, 2, True)  # from a checkpoint at 5
        second.add_scalars({"a": 9.0}, 6)
        second.add_scalars({"a": 10.0, "note": "no number", "iter": 8}, 8)
        again = [(6, {"a": 9.0})] if kind is Slow else []
        assert second.rows == [*arrived, *again, (8, {"a": 10.0})]
        second.close()
        assert second.failed is False
        third = started(kind, work_dir, 3, True)
        third.add_scalars({"a": 10.0}, 8)
        third.add_scalars({"a": 11.0}, 10)
        assert third.rows == [(10, {"a": 11.0})] and third.run == "new"
        fresh = started(kind, work_dir, 4, False)
        fresh.add_scalars({"a": 1.0}, 2)
        assert fresh.rows == [(2, {"a": 1.0})]


def test_figures_of_epochs_stand_at_their_iterations(tmp_path, hub):
    tracker = started(Collected, tmp_path, 1, False)
    tracker.add_scalars({"knn": 1.0}, 0)  # before training
    hub.update_info("iter", 99)  # the hundredth step is the last one of epoch 2
    tracker.add_scalars({"loss": 1.0}, 100)
    tracker.add_scalars({"mAP": 1.0}, 2)
    assert tracker.rows == [
        (0, {"knn": 1.0}),
        (100, {"loss": 1.0}),
        (100, {"mAP": 1.0}),
    ]
