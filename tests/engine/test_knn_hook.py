"""The kNN hook measures, records, and leaves no trace in the training."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mmssl_ext.engine.hooks import KNNHook
from mmssl_ext.errors import ConfigError
from tests.harness import (
    assert_same,
    config,
    knn,
    loader,
    log_rows,
    log_text,
    make_runner,
    write_images,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos"), classes=6, per_class=3)


def test_figures_reach_log_json_and_history_and_survive_a_resume(photos, tmp_path):
    cfg = config(photos, tmp_path, epochs=2, knn=knn(photos, encoder="both"))
    runner = make_runner(cfg)
    runner.train()
    history = runner.message_hub.get_info("knn_history")
    places = [(record["epoch"], record["iter"]) for record in history]
    assert places == [(0, 0), (1, 4), (2, 8)]
    names = {
        f"{prefix}{feature}_top{n}"
        for prefix in ("", "key_")
        for feature in ("backbone", "embedding")
        for n in (1, 5)
    }
    scores = {
        f"{prefix}{feature}_{score}"
        for prefix in ("", "key_")
        for feature in ("backbone", "embedding")
        for score in ("nmi", "ari", "acc")
    }
    assert set(history[0]) == names | scores | {"epoch", "iter"}
    assert all(type(record["backbone_top1"]) is float for record in history)
    rows = [row for row in log_rows(runner) if "knn/backbone_top1" in row]
    assert [(row["epoch"], row["step"]) for row in rows] == places
    for row, record in zip(rows, history, strict=True):
        for name in names:
            assert row[f"knn/{name}"] == record[name]
        for name in scores:
            assert row[f"clustering/{name}"] == record[name]
    text = log_text(runner)
    untrained, last = (f"{history[i]['backbone_top1']:.1f} %" for i in (0, 2))
    assert f"kNN (k=3, t=0.1) untrained: backbone {untrained}" in text
    assert f"kNN (k=3, t=0.1) epoch 2: backbone {last}" in text
    assert f"; untrained {untrained}" in text
    nmi, ari, acc = (history[2][f"backbone_{x}"] for x in ("nmi", "ari", "acc"))
    said = f"backbone NMI {nmi:.1f} %, ARI {ari:.1f} %, ACC {acc:.1f} %; embedding NMI"
    assert f"Clusters of the kNN query set: {said}" in text

    resumed = make_runner(
        config(photos, tmp_path, epochs=3, knn=knn(photos)), resume=True
    )
    resumed.train()
    again = resumed.message_hub.get_info("knn_history")
    assert again[:3] == history and [row["epoch"] for row in again[3:]] == [3]
    text = log_text(resumed)
    assert "t=0.1) untrained:" not in text  # measured once, quoted later
    assert f"; untrained {untrained}" in text


def test_interval_and_last_epoch(photos, tmp_path):
    hook = knn(photos, interval=2, before_train=False)
    runner = make_runner(config(photos, tmp_path, epochs=3, knn=hook))
    runner.train()
    history = runner.message_hub.get_info("knn_history")
    assert [record["epoch"] for record in history] == [2, 3]


class Draws(Hook):
    """What the global generators yield before every step."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, *args, **kwargs):
        self.seen.append((torch.rand(1).item(), np.random.rand(), random.random()))


def test_training_is_the_same_with_and_without(photos, tmp_path):
    states, draws = [], []
    for name, hooks in (("with", {"knn": knn(photos)}), ("without", {})):
        draws.append(Draws())
        cfg = config(photos, tmp_path / name, epochs=2, **hooks)
        runner = make_runner(cfg, draws[-1])
        runner.train()
        states.append(runner.model.state_dict())
    assert draws[0].seen == draws[1].seen
    assert_same(*states)


@pytest.mark.parametrize("place", ["bank_dataloader", "query_dataloader"])
def test_unlabelled_images_are_an_error_before_the_first_step(photos, tmp_path, place):
    hook = knn(photos, before_train=False, **{place: loader(photos, labels="none")})
    runner = make_runner(config(photos, tmp_path, knn=hook))
    with pytest.raises(ConfigError, match=r"default_hooks\.knn=None"):
        runner.train()
    assert runner.iter == 0


def test_k_above_the_bank_is_said_once(photos, tmp_path):
    hook = knn(photos, k=200, before_train=False)
    runner = make_runner(config(photos, tmp_path, epochs=2, knn=hook))
    runner.train()
    assert log_text(runner).count("k=200 exceeds the 18 images") == 1


@pytest.mark.parametrize(
    ("clusters", "sentence"),
    [
        (None, "say nothing of a query set with a single class"),
        (7, "7 clusters cannot be made of the 6 images of the query set"),
        (0, None),
    ],
)
def test_scores_that_cannot_be_are_said_once(tmp_path, clusters, sentence):
    count = 2 if clusters else 1
    photos = write_images(tmp_path / "photos", classes=count, per_class=3)
    hook = knn(photos, num_clusters=clusters)
    runner = make_runner(config(photos, tmp_path / "run", epochs=2, knn=hook))
    runner.train()
    history = runner.message_hub.get_info("knn_history")
    assert "backbone_top1" in history[2] and "backbone_nmi" not in history[2]
    text = log_text(runner)
    assert text.count(sentence or "lustering scores") == (sentence is not None)


def test_a_senseless_number_of_clusters_is_refused():
    with pytest.raises(ValueError, match="num_clusters=-1 of KNNHook must be a number"):
        KNNHook({}, {}, num_clusters=-1)
