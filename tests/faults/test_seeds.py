"""What is random about a sample: new every epoch, and nobody else's (R9, R10)."""

from __future__ import annotations

import itertools

import pytest
import torch
from mmengine.hooks import Hook

from tests.distributed import run_ranks
from tests.faults.ranks import WORKERS, drawn, drawn_on_rank
from tests.harness import config, make_runner, write_images

EPOCHS = 3


class SeenImages(Hook):
    """Notes the views of every image in every epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[int, torch.Tensor]] = []

    def before_train_epoch(self, runner):
        self.epochs.append({})

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        views = torch.stack(data_batch["inputs"], dim=1)  # N x V x 3 x H x W
        for sample, images in zip(data_batch["data_samples"], views, strict=True):
            self.epochs[-1][sample.sample_idx] = images.clone()


@pytest.mark.fault("R9")
@pytest.mark.parametrize("keyed", [True, False])
def test_every_epoch_of_a_run_draws_anew(tmp_path, keyed):
    cfg = config(write_images(tmp_path / "images"), tmp_path / "run", EPOCHS)
    cfg.train_dataloader.update(num_workers=WORKERS, persistent_workers=False)
    if not keyed:  # as in a loop without epochs
        cfg.default_hooks.augmentation_seed = None
    seen = SeenImages()
    make_runner(cfg, seen).train()
    assert [sorted(epoch) for epoch in seen.epochs] == [list(range(16))] * EPOCHS
    for index in range(16):
        for one, other in itertools.combinations(seen.epochs, 2):
            assert not torch.equal(one[index], other[index])


@pytest.mark.fault("R10")
def test_no_two_workers_seeds_or_ranks_share_a_stream(tmp_path):
    """mmengine seeds a worker with num_workers * rank + worker + seed."""
    root = str(write_images(tmp_path / "images"))
    ranks = run_ranks(drawn_on_rank, 2, root)
    for keyed in (True, False):
        runs = [drawn(root, seed, keyed) for seed in (1, WORKERS, WORKERS + 1)]
        runs += [rank[keyed] for rank in ranks]  # seed 0
        per_image = 2 * 3 * 4  # epochs, streams, numbers
        assert [len(n) // per_image for n in runs] == [16, 16, 16, 8, 8]
        everything = torch.cat(runs)
        assert len(everything.unique()) == len(everything)
    again = torch.cat([drawn(root, 3, True), drawn(root, 3, True)])
    assert len(again.unique()) == len(again) // 2  # a stream that is shared would show
