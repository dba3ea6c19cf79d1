"""What is random depends on (seed, epoch, sample, view), and on nothing else."""

from __future__ import annotations

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn

from mmssl_ext.datasets import ImageFolder, SSLDataset
from mmssl_ext.datasets.seeds import AugmentationSeed, SampleSeed
from mmssl_ext.engine.monitor.augmentation_seed import seeded_datasets
from mmssl_ext.registry import HOOKS

from .helpers import TWO_VIEWS, VIEW, loader, write_folder


@pytest.fixture
def dataset(tmp_path):
    write_folder(tmp_path / "images", 6)
    return ImageFolder(str(tmp_path / "images"), pipeline=TWO_VIEWS)


def collect(data_loader):
    """Views by sample, V x 3 x H x W each, whatever the order of the loader."""
    found = {}
    for batch in data_loader:
        views = torch.stack(batch["inputs"], dim=1)
        for sample, images in zip(batch["data_samples"], views, strict=True):
            found[sample.sample_idx] = images
    return torch.stack([found[i] for i in sorted(found)])


def test_a_seed_does_not_depend_on_workers_order_or_batch_size(dataset):
    dataset.set_augmentation_seed(3, 1)
    expected = collect(loader(dataset))
    assert torch.equal(expected, collect(loader(dataset, shuffle=True, batch_size=3)))
    assert torch.equal(expected, collect(loader(dataset, num_workers=2)))


def test_persistent_workers_see_a_new_epoch(dataset):
    expected = []
    for epoch in range(3):
        dataset.set_augmentation_seed(3, epoch)
        expected.append(collect(loader(dataset)))
    persistent = loader(dataset, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 2, 1):
        dataset.set_augmentation_seed(3, epoch)
        assert torch.equal(expected[epoch], collect(persistent))
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.fault("R10")
def test_each_part_of_the_key_changes_the_numbers():
    def draw(seed=5, epoch=2, index=7, view=1, unseeded=False):
        return tuple(SampleSeed((seed, epoch), index, unseeded).view(view).random(4))

    variants = {
        *(draw(), draw(seed=6), draw(epoch=3), draw(index=8), draw(view=0)),
        *(draw(view=-1), draw(unseeded=True), draw(seed=2, epoch=5)),
        *(draw(seed=-1), draw(index=1, view=7)),
    }
    assert len(variants) == 10
    assert draw() in variants


@pytest.mark.fault("R10")
def test_views_and_neighbouring_keys_are_uncorrelated():
    keys = [
        (s, e, i, v) for s in (0, 1) for e in (0, 1) for i in (0, 1) for v in (0, 1)
    ]
    rows = [SampleSeed((s, e), i).view(v).random(4000) for s, e, i, v in keys]
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize(
    ("num_workers", "persistent"), [(0, False), (2, False), (2, True)]
)
@pytest.mark.fault("R9")
def test_without_a_seed_epochs_differ(dataset, num_workers, persistent):
    # mmengine seeds each worker's torch generator alike in each epoch.
    def init(worker_id):
        worker_init_fn(worker_id, num_workers=num_workers, rank=0, seed=0)

    data_loader = loader(
        dataset,
        num_workers=num_workers,
        persistent_workers=persistent,
        worker_init_fn=init,
    )
    first, second = collect(data_loader), collect(data_loader)
    assert not any(map(torch.equal, first, second))
    assert not torch.equal(first[:, 0], first[:, 1])


def test_copies_of_a_seed_are_shared_memory_again():
    seed = AugmentationSeed()
    seed.set(2**40, 17)
    for other in (copy.deepcopy(seed), pickle.loads(pickle.dumps(seed))):
        assert other.get() == (2**40, 17)
        assert other._key.is_shared()
        seed.set(1, 1)
        assert other.get() == (2**40, 17)  # a copy of the dataset has a seed of its own
        seed.set(2**40, 17)


class Blank(SSLDataset):
    """Images of many sizes."""

    def describe(self, row):
        size = (36 + 7 * row % 50, 40 + row % 60, 3)
        return {"img_path": str(row), "img": np.zeros(size, np.uint8)}


@pytest.mark.parametrize(
    ("augment_on", "digest"),
    [("worker", "7efe7160d63a452c"), ("device", "47deb764cedc0361")],
)
def test_boxes_and_parameters_are_those_of_version_0_1(augment_on, digest):
    """A run that began with it goes on with the same views."""
    solarize = [VIEW[0], {"type": "RandomSolarize"}, *VIEW[1:]]
    views = [VIEW, [*solarize, {"type": "CutPatches", "size": 9}]]
    views = [[{**VIEW[0], "size": 32}, *view[1:]] for view in views]
    make = {"type": "MakeViews", "views": views, "augment_on": augment_on}
    dataset = Blank(200, [{"type": "DecodeImage"}, make, {"type": "PackViews"}])
    dataset.set_augmentation_seed(5, 1)
    found = hashlib.sha256()
    for index in range(200):
        item = dataset[index]
        found.update(item["boxes"].numpy().tobytes())
        for view in item.get("augment", []):
            for name, values in view.items():
                found.update(name.encode() + values.numpy().tobytes())
    assert found.hexdigest()[:16] == digest


def test_names_of_version_0_1_go_on(dataset):
    assert HOOKS.get("DrawKeyHook") is HOOKS.get("AugmentationSeedHook")
    dataset.set_draw_key(1, 2)
    assert dataset.augmentation_seed.get() == (1, 2)

    class Mine:
        def set_draw_key(self, seed, epoch):
            self.key = seed, epoch

    mine = Mine()
    assert list(seeded_datasets(torch.utils.data.Subset(mine, []))) == [mine]
    hook = HOOKS.build({"type": "DrawKeyHook"})
    hook._seed = 7
    hook._set(mine, 3)
    assert mine.key == (7, 3)
