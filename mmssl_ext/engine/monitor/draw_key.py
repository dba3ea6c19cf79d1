"""Reproducible augmentation draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class DrawKeyHook(Hook):
    """Key the augmentation draws by seed and epoch.

    Before the loader's iterator of an epoch starts, ``set_draw_key(seed, epoch)`` is
    called on every dataset that has it, also inside wrappers. Draws then depend on
    (seed, epoch, sample, view) alone: they differ every epoch, do not depend on the
    number of workers or ranks, and a resumed run repeats none. A loop without epochs
    leaves the datasets as they are.
    """

    def before_train(self, runner: Any) -> None:
        """Agree on the seed of rank 0: mmengine may add the rank to it."""
        seed = torch.tensor(runner.seed)
        broadcast(seed)
        self._seed = int(seed)

    def before_train_epoch(self, runner: Any) -> None:
        """Set the key of the epoch that is about to start."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            for dataset in keyed_datasets(runner.train_dataloader.dataset):
                dataset.set_draw_key(self._seed, runner.epoch)


def keyed_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets with ``set_draw_key``: this one, or those that it wraps."""
    if hasattr(dataset, "set_draw_key"):
        yield dataset
        return
    inner = [getattr(dataset, name, None) for name in ("dataset", "_dataset")]
    for part in [*inner, *(getattr(dataset, "datasets", None) or [])]:
        if part is not None:
            yield from keyed_datasets(part)
