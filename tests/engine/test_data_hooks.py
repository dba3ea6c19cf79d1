"""Draw keys and the account of unreadable images."""

import re
import time
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import ConcatDataset, Subset

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.engine.monitor.augmentation_seed import AugmentationSeedHook
from mmssl_ext.errors import LoaderError, UserError
from tests.distributed import wait_for, workers
from tests.harness import On, Watch, config, loader, log_text, make_runner, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


def record(images, work_dir, epochs=2, workers=0, **options):
    """The views of every image, epoch by epoch."""
    found = []

    def keep(runner, data_batch, **_):
        for sample, *views in zip(
            data_batch["data_samples"], *data_batch["inputs"], strict=True
        ):
            pixels = tuple(view.numpy().tobytes() for view in views)
            found[-1][sample.sample_idx] = pixels

    cfg = config(images, work_dir, epochs=epochs)
    cfg.train_dataloader.num_workers = workers
    cfg.train_dataloader.persistent_workers = workers > 0
    begin = Watch(before_train_epoch=lambda runner: found.append({}))
    make_runner(cfg, begin, On(before_train_iter=keep), **options).train()
    return found


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
        folder.set_augmentation_seed = lambda *key: keys.append(key)
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner = SimpleNamespace(seed=7, epoch=3, train_loop=loop)
    runner.train_dataloader = SimpleNamespace(dataset=nested)
    hook = AugmentationSeedHook()
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    assert keys == [(7, 3)] * 3


def test_unreadable_images_are_listed_once(tmp_path):
    images = write_images(tmp_path / "images")
    broken = break_images(images, 1)
    work_dir = tmp_path / "run"
    for epochs, resume in ((2, False), (3, True)):
        runner = make_runner(skipping(images, work_dir, epochs), resume=resume)
        runner.train()
        text = log_text(runner)
        time.sleep(1)  # mmengine names the folder of a run's logs by the second
        for epoch in range(1 + 2 * resume, epochs + 1):
            assert f"Epoch {epoch}: 2 images could not be read" in text
        # 16 images asked for in an epoch, and substitutes in place of unreadable ones
        assert re.search(r"\(([2-9]|1\d) of \d\d attempts\)", text)
        assert text.count("replaced by another") == (0 if resume else 1)
        assert text.count("2 images could not be read during training") == 1
    assert sorted(listed(work_dir)) == broken


def break_images(root, per_class):
    """Of the eight images of each class, make some unreadable; their paths."""
    broken = [root / f"class{c}" / f"{i}.png" for c in (0, 1) for i in range(per_class)]
    for path in broken:
        path.write_bytes(b"no image")
    return [str(path) for path in broken]


def listed(work_dir):
    return (work_dir / "unreadable_images.txt").read_text().splitlines()


def skipping(images, work_dir, epochs=1, **options):
    hook = {"type": "UnreadableImagesHook", **options}
    cfg = config(images, work_dir, epochs, unreadable=hook)
    cfg.train_dataloader.dataset.on_error = "skip"
    return cfg


def counted(text):
    """How many failed of how many that were asked for."""
    return map(int, re.match(r"(\d+) of the last (\d+)", text).groups())


@pytest.mark.fault("R12")
def test_too_many_unreadable_images_stop_the_run(tmp_path):
    images = write_images(tmp_path / "images")
    broken = break_images(images, 6)
    cfg = skipping(images, tmp_path / "run", min_images=12, interval=1)
    runner = make_runner(cfg)
    with pytest.raises(UserError, match="max_share of UnreadableImagesHook") as caught:
        runner.train()
    text, paths = str(caught.value), listed(tmp_path / "run")
    assert str(tmp_path / "run" / "unreadable_images.txt") in text
    assert {*paths} <= {*broken} and len({*paths}) == len(paths)
    failed, asked = counted(text)
    # four images in a batch: counted by batches, and stopped at the first that decides
    read = 4 * (runner.iter + 1)
    assert asked == read + failed >= 12 and failed > 0.1 * asked
    assert runner.iter < 4 and asked - 4 < 12 + failed
    named = {line.strip() for line in text.splitlines()} & {*paths}
    assert len(named) == min(5, len(paths))


@pytest.mark.parametrize(
    ("per_class", "options"),
    [(4, {"max_share": 0.95}), (4, {"min_images": 10_000}), (0, {})],
)
def test_fewer_unreadable_images_than_allowed_do_not(per_class, options, tmp_path):
    images = write_images(tmp_path / "images")
    broken = break_images(images, per_class)
    make_runner(skipping(images, tmp_path / "run", interval=1, **options)).train()
    assert (tmp_path / "run" / "unreadable_images.txt").exists() == bool(broken)


def test_small_sets_are_judged_once_enough_was_seen(tmp_path):
    images = write_images(tmp_path / "images")
    break_images(images, 4)
    cfg = skipping(images, tmp_path / "run", epochs=5, min_images=50, interval=100)
    runner = make_runner(cfg)
    with pytest.raises(UserError):
        runner.train()
    # 16 images in an epoch, and about as many substitutes as half of them
    assert 1 <= runner.epoch <= 3


def judge_on_two_ranks(rank, cfg):
    with pytest.raises(UserError) as caught:
        make_runner(Config(cfg), launcher="pytorch").train()
    print(f"said: {str(caught.value).splitlines()[0]}")
    return 0


@pytest.mark.fault("R12")
def test_ranks_stop_together_by_what_all_have_seen(tmp_path):
    """Only rank 1 meets unreadable images: 8 of its 16, of 24 that were asked for."""
    images = write_images(tmp_path / "images")
    paths = [p for c in (0, 1) for p in sorted((images / f"class{c}").iterdir())]
    for path in paths[1::2]:  # ranks take turns in a set that is not shuffled
        path.write_bytes(b"no image")
    cfg = skipping(images, tmp_path / "run", min_images=1, max_share=0.3)
    cfg.train_dataloader.sampler.shuffle = False
    with workers(judge_on_two_ranks, 2, tmp_path / "output", cfg.to_dict()) as found:
        wait_for(found, 60)
        assert [worker.code for worker in found] == [0, 0], found[0].text
        said = [re.search("said: (.*)", worker.text)[1] for worker in found]
    assert said[0] == said[1]
    failed, asked = counted(said[0])
    assert failed >= 8 and asked == 16 + failed


@pytest.mark.fault("R11")
def test_skip_skips_in_training_and_evaluation(tmp_path):
    images = write_images(tmp_path / "images")
    broken = [images / "class1" / f"{i}.png" for i in range(3)]
    contents = [b"", b"no image", broken[0].read_bytes()[:80]]
    for path, content in zip(broken, contents, strict=True):
        path.write_bytes(content)
    cfg = skipping(images, tmp_path / "run", max_share=1)
    judged = loader(images, batch_size=8)
    for each in (cfg.train_dataloader, judged):
        each.update(num_workers=2)
        each["dataset"]["on_error"] = "skip"
    both = {"bank_dataloader": judged, "query_dataloader": judged}
    cfg.default_hooks.knn = {"type": "KNNHook", "k": 3, **both}
    runner = make_runner(cfg)
    runner.train()
    assert runner.iter == 4
    assert sorted(listed(tmp_path / "run")) == sorted(map(str, broken))
    history = runner.message_hub.get_info("knn_history")
    assert [record["epoch"] for record in history] == [0, 1]


@pytest.mark.fault("R11")
def test_raise_names_the_file(tmp_path):
    images = write_images(tmp_path / "images")
    (images / "class1" / "5.png").write_bytes(b"no image")
    cfg = config(images, tmp_path / "run")
    cfg.train_dataloader.num_workers = 2
    with pytest.raises(LoaderError, match=r"class1/5\.png' cannot be read") as caught:
        make_runner(cfg).train()
    assert "Traceback" not in str(caught.value)  # the sentence alone says it
