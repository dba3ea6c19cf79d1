"""Pictures of what was learned, drawn by a run."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mmssl_ext.visualization.hooks import LearnedPicturesHook
from mmssl_ext.visualization.pictures import KINDS, learned, pca
from tests.harness import config, loader, log_text, make_runner, write_images

HOOK = dict(type="LearnedPicturesHook", num_images=4, max_images=16)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def state(runner):
    """Everything that a step depends on, and what the steps have led to."""
    dataset = runner.train_dataloader.dataset
    return dict(
        weights=runner.model.state_dict(),
        strides={n: p.stride() for n, p in runner.model.named_parameters()},
        optimizer=runner.optim_wrapper.state_dict(),
        generator=torch.get_rng_state(),
        modes=[m.training for m in runner.model.modules()],
        fresh=dataset.augmentation_seed.unseeded,
        hooks=[len(m._forward_hooks) for m in runner.model.modules()],
    )


def test_a_run_is_bit_for_bit_the_same_with_it(images, tmp_path):
    # With draws that are not keyed: these depend on how much was drawn before.
    ends = []
    for name, hooks in {"with": dict(learned=HOOK), "no": {}}.items():
        cfg = config(images, tmp_path / name, epochs=2, **hooks)
        cfg.default_hooks.pop("augmentation_seed")
        cfg.default_hooks.performance = dict(type="PerformanceHook", channels_last=True)
        if hooks:
            cfg.default_hooks.learned.interval = 1
        runner = make_runner(cfg)
        runner.train()
        ends.append(state(runner))
    assert (tmp_path / "with" / "pictures" / "pca.png").is_file()
    assert not (tmp_path / "no" / "pictures").exists()
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_index_and_tensorboard_get_the_pictures(images, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    loaders = dict(bank_dataloader=loader(images), query_dataloader=loader(images))
    knn = dict(type="KNNHook", k=3, **loaders)
    cfg = config(images, tmp_path, epochs=2, learned=HOOK, knn=knn)
    runner = make_runner(cfg, tensorboard=True)
    runner.train()
    folder = tmp_path / "pictures"
    index = json.loads((folder / "index.json").read_text())
    assert index["epoch"] == 2 and index["checkpoint"] == "epoch_2.pth"
    assert [entry["kind"] for entry in index["pictures"]] == list(KINDS)
    for entry in index["pictures"]:
        with Image.open(folder / entry["file"]) as image:
            assert image.size == (entry["width"], entry["height"])
        assert entry["title"] and "Good: " in entry["caption"]
    files = ["index.json", *(f"{kind}.png" for kind in KINDS)]
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)
    assert f"Pictures of what was learned: 6 in {folder}" in log_text(runner)
    # The images are those of the kNN query set, whose classes are known.
    assert "of the same class" in index["pictures"][3]["caption"]

    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = accumulator.EventAccumulator(str(file)).Reload()
    assert events.Tags()["images"] == [f"pictures/{kind}" for kind in KINDS]
    (event,) = events.Images("pictures/pca")
    assert (event.step, event.width) == (8, index["pictures"][0]["width"])
    assert not list(tmp_path.rglob("vis_image/*"))  # the local backend gets no copy


def test_interval_stale_pictures_and_training_images(images, tmp_path, monkeypatch):
    epochs = []
    run = LearnedPicturesHook._run
    monkeypatch.setattr(
        LearnedPicturesHook,
        "_run",
        lambda self, runner, epoch: epochs.append(epoch) or run(self, runner, epoch),
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("pca.png", "mine.png"):
        (folder / name).write_bytes(b"old")
    hook = HOOK | dict(kinds=["neighbours"], interval=2)
    cfg = config(images, tmp_path, epochs=4, learned=hook)
    cfg.train_dataloader.dataset.labels = "none"
    make_runner(cfg).train()
    assert epochs == [2, 4]
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["index.json", "mine.png", "neighbours.png"]
    # Without kNN the training images serve.
    (entry,) = json.loads((folder / "index.json").read_text())["pictures"]
    assert "Of 16 images" in entry["caption"] and "class" not in entry["caption"]


def test_failures_are_warnings(images, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(pca, "draw", fail)
    hook = HOOK | dict(kinds=["pca", "filters"])
    runner = make_runner(config(images, tmp_path, learned=hook))
    runner.train()
    index = json.loads((tmp_path / "pictures/index.json").read_text())
    assert [entry["kind"] for entry in index["pictures"]] == ["filters"]
    (tmp_path / "pictures/filters.png").unlink()
    monkeypatch.setattr(learned, "untrained_of", fail)  # the others do not need it
    LearnedPicturesHook(kinds=["filters"]).after_train(runner)
    assert (tmp_path / "pictures/filters.png").is_file()
    monkeypatch.setattr(learned, "save", fail)
    LearnedPicturesHook(kinds=["filters"]).after_train(runner)
    text = log_text(runner)
    assert "the untrained network is left out (RuntimeError: the disk is" in text
    assert "no picture 'pca' (RuntimeError: the disk is full)" in text
    assert "no pictures of what was learned (RuntimeError: the disk" in text


def test_other_ranks_draw_nothing(tmp_path):
    runner = SimpleNamespace(rank=1, epoch=3, work_dir=str(tmp_path))
    LearnedPicturesHook().after_train(runner)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(kinds=["pcs"]), "there is no kind 'pcs'; choose of pca"),
        (dict(num_images=13), "num_images=13 must be 1 to 12"),
        (dict(max_images=2), "max_images=2 3 to"),
        (dict(interval=0), "interval=0 at least 1"),
    ],
)
def test_options_are_checked(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        LearnedPicturesHook(**options)
