"""Reproducible augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmssl_ext.registry import HOOKS

# The second is the name that version 0.1 had for it.
_METHODS = ("set_augmentation_seed", "set_draw_key")


@HOOKS.register_module(name=["AugmentationSeedHook", "DrawKeyHook"])
class AugmentationSeedHook(Hook):
    """Seed the augmentation of every epoch by the run's seed and the epoch.

    Before the loader's iterator of an epoch starts,
    ``set_augmentation_seed(seed, epoch)`` is called on every dataset that has it, also
    inside wrappers. What is random then depends on (seed, epoch, sample, view) alone:
    it differs every epoch, does not depend on the number of workers or ranks, and a
    resumed run repeats none. A loop without epochs leaves the datasets as they are.

    ``DrawKeyHook`` is its name in version 0.1.
    """

    def before_train(self, runner: Any) -> None:
        """Agree on the seed of rank 0: mmengine may add the rank to it."""
        seed = torch.tensor(runner.seed)
        broadcast(seed)
        self._seed = int(seed)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the seed of the epoch that is about to start."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            for dataset in seeded_datasets(runner.train_dataloader.dataset):
                self._set(dataset, runner.epoch)

    def _set(self, dataset: Any, epoch: int) -> None:
        method = next(name for name in _METHODS if hasattr(dataset, name))
        getattr(dataset, method)(self._seed, epoch)


def seeded_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets with ``set_augmentation_seed``: this one, or those that it wraps."""
    if any(hasattr(dataset, name) for name in _METHODS):
        yield dataset
        return
    inner = [getattr(dataset, name, None) for name in ("dataset", "_dataset")]
    for part in [*inner, *(getattr(dataset, "datasets", None) or [])]:
        if part is not None:
            yield from seeded_datasets(part)
