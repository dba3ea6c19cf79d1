"""What a checkpoint says of the run that wrote it, to be compared on a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import EpochBasedTrainLoop

from mmssl_ext.compat import accumulative_counts
from mmssl_ext.datasets.identity import identify
from mmssl_ext.unwrap import unwrap

DATA = "data"  # in the meta of a checkpoint: what identifies the training data


def facts(runner: Any) -> dict[str, Any]:
    """Return what a checkpoint must share with the run that goes on from it."""
    loader = runner.train_dataloader
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)
    return {
        "method": type(unwrap(runner.model)).__name__,
        "optimizer": type(optimizer or runner.optim_wrapper).__name__,
        "images": len(loader.dataset) if hasattr(loader.dataset, "__len__") else None,
        "world_size": runner.world_size,
        "batch_size": batch_size(loader),
        "accumulative_counts": accumulation(runner),
        "epoch_length": epoch_length(runner),
        "threads": torch.get_num_threads() if get_device() == "cpu" else None,
        "config": plain(runner.cfg),
    }


def epoch_length(runner: Any) -> int | None:
    """Iterations of an epoch; None where the run counts iterations."""
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    return len(runner.train_dataloader) if by_epoch else None


def batch_size(loader: Any) -> int | None:
    """Images per batch and rank; None where a batch sampler does not tell."""
    size = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
    return size if isinstance(size, int) else None


def accumulation(runner: Any) -> int:
    """Return the number of iterations whose gradients make one optimizer step."""
    return accumulative_counts(runner.optim_wrapper)


def sampler(loader: Any) -> Any:
    """Return what deals the indices out, below a batch sampler."""
    return getattr(loader.batch_sampler, "sampler", None) or loader.sampler


def data_of(runner: Any) -> dict[str, Any] | None:
    """Return what identifies the training data; None where they do not tell."""
    # By name: mmpretrain's models take seconds to import, and transfers need none.
    kinds = {kind.__name__ for kind in type(unwrap(runner.model)).__mro__}
    labelled = "BaseSelfSupervisor" not in kinds
    return identify(runner.train_dataloader.dataset, labelled=labelled)


def plain(value: Any) -> Any:
    """Copy a config as dicts, lists, numbers and strings; of the rest its name."""
    if isinstance(value, (dict, Config)):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else f"<{type(value).__name__}>"
