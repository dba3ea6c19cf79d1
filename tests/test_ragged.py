"""A folder as people have them, through every entrance, as commands."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
import torch

from mmssl_ext.datasets.shards import ShardIndex
from tests.harness import REPO
from tests.ragged import Ragged
from tests.warm import python

CONFIG = REPO / "configs/co2/co2_r18_demo.py"
SMALL = (
    *("image_size=32", "batch_size=8", "queue_len=16", "max_epochs=1"),
    *("model.bn_splits=4", "model.backbone.base_channels=8"),
    *("model.backbone.stem_channels=8", "model.neck.in_channels=64"),
    *("default_hooks.learned=None", "default_hooks.report=None"),
    *("train_dataloader.num_workers=1", "default_hooks.knn.k=2"),
)


def tool(name, *args, cwd, options=(), code=0):
    """Run a tool with the small config; return what it printed."""
    options = ["--cfg-options", *options] if options else []
    done = python(REPO / "tools" / name, *args, *options, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def options(ragged, photos="ImageFolder", root=None):
    return (
        *SMALL,
        f"train_dataloader.dataset.type={photos}",
        f"train_dataloader.dataset.root={root or ragged.photos}",
        "train_dataloader.dataset.on_error=skip",
        f"default_hooks.knn.bank_dataloader.dataset.root={ragged.train}",
        f"default_hooks.knn.query_dataloader.dataset.root={ragged.test}",
    )


@pytest.fixture(scope="module")
def trained(ragged: Ragged, tmp_path_factory):
    """A run on the photos with kNN, and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    text = tool(
        *("train.py", CONFIG, "--work-dir", "run"), cwd=folder, options=options(ragged)
    )
    return folder / "run", text


def test_training_takes_all_and_says_what_it_leaves_out(trained, ragged):
    run, text = trained
    steps = ragged.num_photos // 8
    assert f"[1][{steps}/{steps}]" in text
    assert f"found {ragged.num_photos} images, left out 3 files of other types" in text
    assert "1 link to folders that are read anyway (trip/loop)" in text
    assert "of the range of their 16 bits" in text and "deep.png" in text
    assert "kNN (k=2" in text and "Traceback" not in text
    state = torch.load(run / "epoch_1.pth", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())
    rows = [
        json.loads(line)
        for path in run.glob("*/vis_data/scalars.json")
        for line in path.read_text().splitlines()
    ]
    assert [row for row in rows if "knn/backbone_top1" in row]


def test_the_features_of_all_photos_are_written(trained, ragged, tmp_path):
    run, _ = trained
    query = "default_hooks.knn.query_dataloader.dataset"
    tool(
        *("test.py", run / CONFIG.name, run / "epoch_1.pth"),
        *("--features", tmp_path / "features.npz"),
        cwd=tmp_path,
        options=(
            *(f"{query}.root={ragged.photos}", f"{query}.labels=none"),
            f"{query}.on_error=skip",
        ),
    )
    found = np.load(tmp_path / "features.npz")
    assert found["backbone"].shape == (ragged.num_photos, 64)
    assert np.isfinite(found["backbone"]).all()
    wanted = [str(ragged.photos / name) for name in ragged.names]
    read = [str(path) for path in found["paths"]]
    broken = wanted.index(str(ragged.broken))
    for index, (one, two) in enumerate(zip(wanted, read, strict=True)):
        assert index == broken or os.fsencode(one) == os.fsencode(two)
    # Turned photographs are upright, and so alike but for their compression.
    rows = [read.index(str(path)) for path in ragged.turned.values()]
    features = torch.nn.functional.normalize(torch.from_numpy(found["backbone"][rows]))
    assert (features @ features.T).min() > 0.99


@pytest.mark.fault("R40")
def test_test_images_that_lack_a_class_are_scored_by_the_names(trained, ragged):
    run, _ = trained
    text = tool(
        *("test.py", run / CONFIG.name, run / "epoch_1.pth", "--k", "1"), cwd=run
    )
    assert "knn backbone_top1: " in text


def test_shards_hold_the_same_and_a_run_takes_them(trained, ragged, tmp_path):
    text = tool("make_shards.py", ragged.photos, "made", cwd=tmp_path)
    assert f"{ragged.num_photos} images in 1 shards" in text
    assert "left out 3 files of other types" in text
    index = ShardIndex.load(str(tmp_path / "made"))
    assert tuple(index.names) == ragged.names
    text = tool("make_shards.py", "made", "--verify", cwd=tmp_path, code=2)
    assert f"1 of the {ragged.num_photos} images" in text
    assert text.count("cannot be read") == 1 and "broken.jpg" in text
    tool(
        *("train.py", CONFIG, "--work-dir", "run"),
        cwd=tmp_path,
        options=options(ragged, "ImageShards", tmp_path / "made"),
    )
    states = [
        torch.load(run / "epoch_1.pth", weights_only=True)["state_dict"]
        for run in (trained[0], tmp_path / "run")
    ]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


CHAIN = """
pretrain = dict(config="configs/co2/co2_r18_demo.py", options={pretrain!r})
sources = {{"co2": "pretrain"}}
options = dict(depth=18, base_channels=8, num_workers=0)
transfers = dict(
    knn=dict(
        config="configs/transfer/classification/knn_r50_imagenet.py",
        options=dict(
            data_root={root!r}, test_folder="test", num_classes=3, image_size=32,
            resize=32, k=2, batch_size=4,
        ),
    ),
)
"""


@pytest.mark.slow  # each entrance of it has a test of its own
def test_a_chain_carries_them_to_a_transfer(ragged, tmp_path):
    """Pretraining on the photos; kNN of the labelled ones, of which a class lacks."""
    given = dict(text.split("=", 1) for text in options(ragged))
    for name, text in given.items():
        given[name] = int(text) if text.isdigit() else None if text == "None" else text
    file = tmp_path / "own.py"
    file.write_text(CHAIN.format(pretrain=given, root=str(ragged.train.parent)))
    tool("chain.py", file, "--work-dir", tmp_path / "chain", cwd=tmp_path)
    rows = list(csv.DictReader((tmp_path / "chain/results.csv").open()))
    (row,) = [row for row in rows if row["transfer"] == "knn"]
    share = 100 / ragged.num_test
    assert float(row["value"]) in {n * share for n in range(ragged.num_test + 1)}
    log = next((tmp_path / "chain").rglob("knn-co2-seed0/**/*.log")).read_text()
    assert "120 of 120 tensors" in log


def test_what_was_learned_of_them_is_drawn(trained, ragged, tmp_path):
    run, _ = trained
    text = tool(
        *("visualize.py", run / CONFIG.name, run / "epoch_1.pth"),
        *("--images", ragged.photos, "--out", "seen", "--kind", "pca", "neighbours"),
        cwd=tmp_path,
    )
    assert "broken.jpg" in text and "Traceback" not in text
    assert {path.suffix for path in (tmp_path / "seen").iterdir()} >= {".png"}
