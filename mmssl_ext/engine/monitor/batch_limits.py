"""What train mode needs of the size of a batch, which no batch of one in eval shows."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from torch import nn

from mmssl_ext import compat
from mmssl_ext.engine.checkpoint.facts import batch_size, sampler
from mmssl_ext.errors import ConfigError

_PAIR = 2  # values of which there is a variance


@contextmanager
def single_values(model: nn.Module) -> Iterator[list[str]]:
    """Find the BatchNorm layers that get one value per channel from a batch of one.

    Yields:
        Their names, filled while the model runs.
    """
    found: list[str] = []

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            # Of patches or regions a single image has several rows.
            if inputs[0].numel() < _PAIR * inputs[0].shape[1] and name not in found:
                found.append(name)

        return hook

    handles = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, compat.BatchNorm) and not _is_shared(module)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_batches(loader: Any, layers: list[str]) -> None:
    """Refuse a batch of one image where a layer needs two.

    Args:
        loader: Of the training.
        layers: From :func:`single_values`.

    Raises:
        ConfigError: A batch of the loader has one image.
    """
    size = batch_size(loader)
    if not layers or size is None or (size > 1 and _last(loader, size) != 1):
        return
    what = (
        "Batches have one image"
        if size == 1
        else f"The last batch of an epoch has one image ({_images(loader):,} images in "
        f"batches of {size}, drop_last=False)"
    )
    how = (
        "Raise train_dataloader.batch_size (batch_size in the shipped configs) to 2 or "
        "more"
        if size == 1
        else "Set train_dataloader.drop_last=True, or change the batch size"
    )
    raise ConfigError(
        f"{what}, of which BatchNorm ({layers[0]}) has one value per channel and no "
        f"variance. {how}."
    )


def tell_of_batches(loader: Any, model: nn.Module) -> None:
    """Log what goes on, but not as the config may mean it: splits and queues."""
    # Models import the toolboxes, which the check of other data does without.
    from mmssl_ext.models.layers import SplitBatchNorm
    from mmssl_ext.models.memory import KeyQueue

    size = batch_size(loader)
    if size is None:  # dealt out by a sampler that does not tell
        return
    splits = max(
        (m.num_splits for m in model.modules() if isinstance(m, SplitBatchNorm)),
        default=1,
    )
    if splits > 1 and size < 2 * _PAIR:
        _say(
            f"Batches of {size} cannot be split into groups (bn_splits={splits}), so "
            "query and key share batch statistics, which leak the answer. Raise "
            "batch_size to 4 or more; 16 gives 8 groups of two."
        )
    keys = size * get_world_size()
    lengths = [m.keys.shape[-2] for m in model.modules() if isinstance(m, KeyQueue)]
    if lengths and min(lengths) < keys:
        _say(
            f"The queue of {min(lengths):,} keys is shorter than a step of {keys:,} "
            "images, so most of the keys are never compared with. Set queue_len to "
            f"{keys:,} or more."
        )


def _is_shared(module: nn.Module) -> bool:
    """Whether ranks put their batches together, and there are several."""
    return isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1


def _last(loader: Any, size: int) -> int:
    """Images in the last batch of an epoch; 0 where it is a whole one or unknown."""
    if getattr(loader.batch_sampler, "drop_last", loader.drop_last):
        return 0
    return _images(loader) % size


def _images(loader: Any) -> int:
    """Images of this rank in an epoch; 0 where its sampler goes on without an end."""
    found = sampler(loader)
    endless = isinstance(found, InfiniteSampler) or not isinstance(found, Sized)
    return 0 if endless else len(found)


def _say(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
