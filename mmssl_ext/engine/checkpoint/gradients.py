"""What iterations have gathered that wait for the others of an optimizer step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from torch import Tensor

from mmssl_ext.old_names import new_name
from mmssl_ext.unwrap import unwrap

from .resume import accumulation


@torch.no_grad()
def waiting_gradients(runner: Any) -> dict[str, Tensor]:
    """Return accumulated gradients by the names of their parameters.

    Of several ranks it is the mean, which is what they would come to with the step; all
    of them must call this. Empty between two steps of the optimizer.
    """
    wrapper, counts = runner.optim_wrapper, accumulation(runner)
    if counts == 1 or wrapper.should_update():  # nothing since the last step
        return {}
    parameters = dict(unwrap(runner.model).named_parameters())
    found = {k: p.grad for k, p in parameters.items() if p.grad is not None}
    if runner.world_size == 1:
        return found
    names = sorted(set().union(*all_gather_object(list(found))))
    means = {}
    for name in names:
        own = found.get(name)
        mean = torch.zeros_like(parameters[name]) if own is None else own.clone()
        all_reduce(mean, op="mean")
        means[name] = mean
    return means


@torch.no_grad()
def restore_gradients(runner: Any, gradients: dict[str, Tensor]) -> None:
    """Set the gradients that :func:`waiting_gradients` returned."""
    parameters = dict(unwrap(runner.model).named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name if name in parameters else new_name(name)]
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def waiting_memory(runner: Any) -> list[dict[str, dict[str, Tensor]]]:
    """Return what a method is yet to remember, rows of all ranks, per iteration.

    Rows are in rank order; all ranks must call this. Empty between two steps.
    """
    waiting = getattr(unwrap(runner.model), "waiting", None)
    if not waiting:
        return []
    shares = all_gather_object(waiting) if get_world_size() > 1 else [waiting]
    return [
        {
            part: {
                name: torch.cat([share[i][part][name].cpu() for share in shares])
                for name in kinds
            }
            for part, kinds in iteration.items()
        }
        for i, iteration in enumerate(waiting)
    ]


def restore_memory(
    runner: Any, waiting: list[dict[str, dict[str, Tensor]]] | None
) -> None:
    """Set this rank's share of what :func:`waiting_memory` returned."""
    model = unwrap(runner.model)
    if not waiting or not hasattr(model, "waiting"):
        return
    device, ranks, rank = next(model.parameters()).device, get_world_size(), get_rank()
    model.waiting = [
        {
            part: {n: x.chunk(ranks)[rank].to(device) for n, x in kinds.items()}
            for part, kinds in iteration.items()
        }
        for iteration in waiting
    ]


@contextmanager
def without_mmengines_warning(logger: logging.Logger) -> Iterator[None]:
    """Keep back what mmengine says of gradients that are lost, where they are not."""

    def is_other(record: logging.LogRecord) -> bool:
        return "Resumed iteration number is not divisible" not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
