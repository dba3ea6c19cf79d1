import math

import numpy as np
import pytest

from mmssl_ext.visualization import logs
from mmssl_ext.visualization.curves import thin

from .conftest import knn_row, train_row, write_session


def test_later_session_replaces_what_was_trained_again(work_dir):
    log = logs.read_run(work_dir)
    steps, losses = log.series("loss_instance")
    assert steps == [10, 20, 30, 40, 50, 60, 70, 80]
    assert losses == [6, 6, 6, 6, 4, 4, 4, 4]
    assert log.broken_lines == 1
    assert [row["epoch"] for row in log.knn] == [0, 1, 4]
    assert log.knn_before() == 31.37
    assert log.seconds() == pytest.approx(80 * 0.5)
    assert log.iterations_per_epoch == 20
    for path in work_dir.glob("*/run.json"):
        path.unlink()
    assert logs.read_run(work_dir).iterations_per_epoch == 20
    assert logs.read_warnings(work_dir) == [
        ("ERROR", "A worker died.", 1),
        ("WARNING", "Image <i>.jpg was replaced.", 2),
    ]


def test_new_run_in_an_old_directory_forgets_the_old_one(tmp_path):
    write_session(tmp_path, "1", [train_row(step, 6.0) for step in range(10, 200, 10)])
    write_session(tmp_path, "2", [train_row(10, 1.0)])
    assert logs.read_run(tmp_path).series("loss_instance") == ([10], [1.0])


def test_prefixes_split_knn_lines_and_the_key_encoder(tmp_path):
    row = {f"train/{key}": value for key, value in train_row(10).items()}
    row |= {"step": 10, "epoch": 1}
    both = knn_row(1, 50.0, 40.0)
    one = {k: v for k, v in both.items() if "embedding" not in k}
    two = {k: v for k, v in both.items() if "backbone" not in k}
    write_session(tmp_path, "1", [row, one, two, {"accuracy/top1": 3.0, "step": 4}])
    log = logs.read_run(tmp_path)
    assert log.series("health/std_ratio") == ([10], [0.8765])
    assert log.knn_series("backbone") == ([1], [50.0])
    assert log.knn_series("embedding") == ([1], [40.0])
    # Where only the key encoder was evaluated, it stands in.
    write_session(tmp_path / "key", "1", [{"knn/key_backbone_top1": 61.0, "epoch": 2}])
    assert logs.read_run(tmp_path / "key").knn_series("backbone") == ([2], [61.0])


def test_thin_keeps_means_and_gaps():
    y = np.arange(1000.0)
    y[0] = math.nan
    xs, ys = thin(list(range(1000)), list(y))
    assert len(xs) == len(ys) == 250
    assert math.isnan(ys[0])
    assert ys[1] == pytest.approx(5.5)
    assert xs[-1] == pytest.approx(997.5)
