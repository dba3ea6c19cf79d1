"""Draw keys and the account of unreadable images."""

import time
from types import SimpleNamespace

import pytest
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import ConcatDataset, Subset

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.engine.hooks.draw_key import DrawKeyHook
from tests.engine.support import config, log_text, make_runner, write_images


class Record(Hook):
    """Keep the views of every batch."""

    def __init__(self):
        self.epochs = []

    def before_train_epoch(self, runner):
        self.epochs.append([])

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        views = data_batch["inputs"]
        for sample, *images in zip(data_batch["data_samples"], *views, strict=True):
            pixels = tuple(image.numpy().tobytes() for image in images)
            self.epochs[-1].append((sample.sample_idx, pixels))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def record(images, work_dir, epochs=2, workers=0, **options):
    cfg = config(images, work_dir, epochs=epochs)
    cfg.train_dataloader.num_workers = workers
    cfg.train_dataloader.persistent_workers = workers > 0
    hook = Record()
    make_runner(cfg, hook, **options).train()
    return [dict(epoch) for epoch in hook.epochs]


def test_draws_depend_on_seed_and_epoch_alone(images, tmp_path):
    one = record(images, tmp_path / "a")
    assert one[0].keys() == one[1].keys()
    assert all(one[0][i] != one[1][i] for i in one[0])
    assert all(first != second for first, second in one[0].values())
    # prefetching workers that outlive the epoch draw the same
    assert record(images, tmp_path / "b", workers=2) == one
    # and so does a run that was resumed
    record(images, tmp_path / "c", epochs=1)
    assert record(images, tmp_path / "c", resume=True) == one[1:]


def test_wrapped_datasets_are_reached(images):
    folders = [ImageFolder(str(images)) for _ in range(3)]
    nested = ConcatDataset([Subset(folders[0], [1, 2]), ConcatDataset(folders[1:])])
    keys = []
    for folder in folders:
        folder.set_draw_key = lambda *key: keys.append(key)
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner = SimpleNamespace(
        seed=7,
        epoch=3,
        train_loop=loop,
        train_dataloader=SimpleNamespace(dataset=nested),
    )
    hook = DrawKeyHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert keys == [(7, 3)] * 3


def test_unreadable_images_are_listed_once(tmp_path):
    images = write_images(tmp_path / "images")
    broken = [images / "class0" / "3.png", images / "class1" / "5.png"]
    for path in broken:
        path.write_bytes(b"no image")
    work_dir = tmp_path / "run"
    for epochs, resume in ((2, False), (3, True)):
        cfg = config(
            images, work_dir, epochs, unreadable={"type": "UnreadableImagesHook"}
        )
        cfg.train_dataloader.dataset.on_error = "skip"
        runner = make_runner(cfg, resume=resume)
        runner.train()
        text = log_text(runner)
        time.sleep(1)  # mmengine names the folder of a run's logs by the second
        for epoch in range(1 + 2 * resume, epochs + 1):
            assert f"Epoch {epoch}: 2 images could not be read" in text
        assert text.count("replaced by another") == (0 if resume else 1)
        assert text.count("2 images could not be read during training") == 1
    listed = (work_dir / "unreadable_images.txt").read_text().splitlines()
    assert sorted(listed) == sorted(str(path) for path in broken)


def test_no_file_without_unreadable_images(images, tmp_path):
    hook = {"type": "UnreadableImagesHook"}
    make_runner(config(images, tmp_path, unreadable=hook)).train()
    assert not (tmp_path / "unreadable_images.txt").exists()
