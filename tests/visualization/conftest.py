"""A work directory as a resumed run leaves it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

QUEUE = 1024
ITERATIONS = 20  # per epoch
HEALTH = {
    "health/std_ratio": 0.8765,
    "health/effective_rank": 45.67,
    "health/pos_neg_gap": 0.4321,
    "health/alignment": 0.3,
    "health/uniformity": -3.21,
}


def train_row(step: int, loss: float = 3.0) -> dict:
    times = {"lr": 0.03, "time": 0.5, "data_time": 0.1, "img_per_s": 64.0}
    losses = {"loss": loss + 0.5, "loss_instance": loss, "loss_consistency": 0.5}
    epoch = math.ceil(step / ITERATIONS)
    health = HEALTH | {"health/alignment": 0.3 + 1e-9 * step}  # measured in each line
    return times | losses | health | {"epoch": epoch, "iter": step, "step": step}


def knn_row(epoch: int, backbone: float, embedding: float) -> dict:
    step = epoch * ITERATIONS
    scores = {"knn/backbone_top1": backbone, "knn/embedding_top1": embedding}
    return scores | {"epoch": epoch, "iter": step, "step": step}


def write_session(work_dir: Path, name: str, rows: list[dict], tail: str = "") -> Path:
    folder = work_dir / name / "vis_data"
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows) + tail
    (folder / "scalars.json").write_text(text)
    return folder.parent


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def make_run(tmp_path: Path) -> Path:
    first = [knn_row(0, 31.37, 27.9)]
    first += [train_row(step, 6.0) for step in range(10, 61, 10)]
    first.insert(3, knn_row(1, 40.0, 35.0))
    write_session(tmp_path, "20260101_000000", first, '{"lr": 0.01, "lo')
    second = [train_row(step, 4.0) for step in range(50, 81, 10)]
    second.append(knn_row(4, 55.62, 50.5))
    session = write_session(tmp_path, "20260102_000000", second)
    (session / "vis_data" / "config.py").write_text("model = dict(type='<b>CO2</b>')\n")
    (session / "20260102_000000.log").write_text(
        "2026/01/02 00:00:00 - mmengine - INFO - nothing to see\n"
        "2026/01/02 00:00:01 - mmengine - WARNING - Image <i>.jpg was replaced.\n"
        "2026/01/02 00:00:02 - mmengine - WARNING - Image <i>.jpg was replaced.\n"
        "2026/01/02 00:00:03 - mmengine - ERROR - /a/b.py - run - 7 - A worker died.\n"
    )
    facts = {
        **{"method": "CO2", "dataset": "ImageFolder 'photos & more'", "images": 1280},
        **{"queue_length": QUEUE, "seed": 7, "batch_size": 64, "world_size": 2},
        **{"device": "NVIDIA Big", "system": "Linux-6"},
        **{"max_epochs": 4, "max_iters": 4 * ITERATIONS},
        "versions": {"torch": "2.11.0", "mmdet": "3.5"},
        "command": "python tools/train.py co2.py",
    }
    (session / "run.json").write_text(json.dumps(facts))
    (tmp_path / "unreadable_images.txt").write_text("a.jpg\nb.jpg\n")
    (tmp_path / "epoch_4.pth").write_bytes(b"weights")
    return tmp_path
