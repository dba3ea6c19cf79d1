"""Draws depend on (seed, epoch, sample, view), and on nothing else."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.dataset import worker_init_fn

from mmssl_ext.datasets import ImageFolder
from mmssl_ext.datasets.draws import DrawKey, SampleDraws

from .helpers import TWO_VIEWS, loader, write_folder


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


def test_keyed_draws_do_not_depend_on_workers_order_or_batch_size(dataset):
    dataset.set_draw_key(3, 1)
    expected = collect(loader(dataset))
    assert torch.equal(expected, collect(loader(dataset, shuffle=True, batch_size=3)))
    assert torch.equal(expected, collect(loader(dataset, num_workers=2)))


def test_common_transforms_and_every_view_have_a_stream_of_their_own():
    draws = SampleDraws((3, 1), 5)
    streams = [draws.stream(), draws.view(0), draws.view(1)]
    first = [tuple(stream.random(4)) for stream in streams]
    assert len(set(first)) == 3


@pytest.mark.slow
def test_keyed_draws_reach_spawned_workers(dataset):
    dataset.set_draw_key(3, 1)
    expected = collect(loader(dataset))
    spawned = loader(dataset, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(expected, collect(spawned))


def test_persistent_workers_see_a_new_key(dataset):
    expected = []
    for epoch in range(3):
        dataset.set_draw_key(3, epoch)
        expected.append(collect(loader(dataset)))
    persistent = loader(dataset, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 2, 1):
        dataset.set_draw_key(3, epoch)
        assert torch.equal(expected[epoch], collect(persistent))
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.fault("R10")
def test_each_part_of_the_key_changes_the_draws():
    def draw(seed=5, epoch=2, index=7, view=1, fresh=False):
        return tuple(SampleDraws((seed, epoch), index, fresh).view(view).random(4))

    variants = {
        draw(),
        draw(seed=6),
        draw(epoch=3),
        draw(index=8),
        draw(view=0),
        draw(fresh=True),
        draw(seed=2, epoch=5),
        draw(seed=-1),
        draw(index=1, view=7),
    }
    assert len(variants) == 9
    assert draw() in variants


@pytest.mark.fault("R10")
def test_views_and_neighbouring_keys_are_uncorrelated():
    keys = [
        (s, e, i, v) for s in (0, 1) for e in (0, 1) for i in (0, 1) for v in (0, 1)
    ]
    rows = [SampleDraws((s, e), i).view(v).random(4000) for s, e, i, v in keys]
    correlation = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.fault("R9")
def test_fresh_draws_differ_between_epochs(dataset, num_workers, persistent):
    # mmengine seeds each worker's torch generator alike in each epoch.
    def init(worker_id):
        worker_init_fn(worker_id, num_workers=num_workers, rank=0, seed=0)

    data_loader = loader(
        dataset,
        num_workers=num_workers,
        persistent_workers=persistent and num_workers > 0,
        worker_init_fn=init,
    )
    first, second = collect(data_loader), collect(data_loader)
    for a, b in zip(first, second, strict=True):
        assert not torch.equal(a, b)
    assert not torch.equal(first[:, 0], first[:, 1])


def test_copies_of_a_key_are_shared_memory_again():
    key = DrawKey()
    key.set(2**40, 17)
    for other in (copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert other.get() == (2**40, 17)
        assert other._key.is_shared()
        key.set(1, 1)
        assert other.get() == (2**40, 17)  # a copy of the dataset has its own key
        key.set(2**40, 17)
