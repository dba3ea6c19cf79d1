"""Pictures of what was learned, drawn by a run."""

import json
from pathlib import Path

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


def knn(images):
    return dict(
        type="KNNHook",
        k=3,
        bank_dataloader=loader(images),
        query_dataloader=loader(images),
    )


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
    """With draws that are not keyed: these depend on how much was drawn before."""
    ends = []
    drawing = dict(learned=HOOK | dict(interval=1))
    for name, hooks in {"with": drawing, "no": {}}.items():
        cfg = config(images, tmp_path / name, epochs=2, **hooks)
        cfg.default_hooks.pop("augmentation_seed")
        performance = dict(type="PerformanceHook", channels_last=True)
        cfg.default_hooks.performance = performance
        runner = make_runner(cfg)
        runner.train()
        ends.append(state(runner))
    assert (tmp_path / "with" / "pictures" / "pca.png").is_file()
    assert not (tmp_path / "no" / "pictures").exists()
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)


def test_index_describes_the_pictures(images, tmp_path):
    cfg = config(images, tmp_path, epochs=2, learned=HOOK, knn=knn(images))
    runner = make_runner(cfg)
    runner.train()
    folder = tmp_path / "pictures"
    index = json.loads((folder / "index.json").read_text())
    assert index["epoch"] == 2 and index["checkpoint"] == "epoch_2.pth"
    assert [entry["kind"] for entry in index["pictures"]] == list(KINDS)
    for entry in index["pictures"]:
        with Image.open(folder / entry["file"]) as image:
            assert image.size == (entry["width"], entry["height"])
        assert entry["title"] and "Good: " in entry["caption"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["index.json", *(f"{kind}.png" for kind in KINDS)]
    )
    assert f"Pictures of what was learned: 6 in {folder}" in log_text(runner)
    # The images are those of the kNN query set, whose classes are known.
    assert "of the same class" in index["pictures"][3]["caption"]


def test_without_knn_the_training_images_serve(images, tmp_path):
    cfg = config(images, tmp_path, learned=HOOK | dict(kinds=["neighbours"]))
    cfg.train_dataloader.dataset.labels = "none"
    make_runner(cfg).train()
    entry = json.loads((tmp_path / "pictures/index.json").read_text())["pictures"][0]
    assert "Of 16 images" in entry["caption"]
    assert "class" not in entry["caption"]


def test_interval_and_stale_pictures(images, tmp_path, monkeypatch):
    epochs = []
    run = LearnedPicturesHook._run
    monkeypatch.setattr(
        LearnedPicturesHook,
        "_run",
        lambda self, runner, epoch: epochs.append(epoch) or run(self, runner, epoch),
    )
    (tmp_path / "pictures").mkdir()
    for name in ("pca.png", "mine.png"):
        (tmp_path / "pictures" / name).write_bytes(b"old")
    hook = HOOK | dict(kinds=["filters"], interval=2)
    make_runner(config(images, tmp_path, epochs=4, learned=hook)).train()
    assert epochs == [2, 4]
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert names == ["filters.png", "index.json", "mine.png"]


def test_failures_are_warnings(images, tmp_path, monkeypatch):
    def fail(subject):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(pca, "draw", fail)
    hook = HOOK | dict(kinds=["pca", "filters"])
    runner = make_runner(config(images, tmp_path / "one", learned=hook))
    runner.train()
    text = log_text(runner)
    assert "no picture 'pca' (RuntimeError: the disk is full)" in text
    index = json.loads((tmp_path / "one/pictures/index.json").read_text())
    assert [entry["kind"] for entry in index["pictures"]] == ["filters"]

    monkeypatch.setattr(learned, "save", lambda *args: fail(None))
    runner = make_runner(config(images, tmp_path / "two", learned=hook))
    runner.train()
    assert "no pictures of what was learned (RuntimeError: the disk" in log_text(runner)
    assert runner.epoch == 1 and (tmp_path / "two/epoch_1.pth").is_file()


def test_tensorboard_gets_them_and_the_local_backend_no_copy(images, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    hook = HOOK | dict(kinds=["filters", "pca"], interval=1)
    cfg = config(images, tmp_path, epochs=2, learned=hook)
    make_runner(cfg, tensorboard=True).train()
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = accumulator.EventAccumulator(str(file)).Reload()
    assert sorted(events.Tags()["images"]) == ["pictures/filters", "pictures/pca"]
    steps = [image.step for image in events.Images("pictures/pca")]
    assert steps == [4, 8]  # iterations
    with Image.open(tmp_path / "pictures/pca.png") as image:
        assert events.Images("pictures/pca")[-1].width == image.width
    assert not list(tmp_path.rglob("vis_image/*"))


def test_other_ranks_draw_nothing(tmp_path):
    class Runner:
        rank, epoch, work_dir = 1, 3, str(tmp_path)

    LearnedPicturesHook().after_train(Runner())
    assert not list(Path(tmp_path).iterdir())


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
