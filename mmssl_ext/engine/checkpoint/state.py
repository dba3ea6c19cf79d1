"""What a run has in hand between two steps, besides its model and its optimizer.

Random generators; gradients, and keys for queues and banks, that wait for the rest of
an optimizer step; the form of the softmax over a queue, where a trial chose it.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, all_reduce, get_rank, get_world_size
from torch import Tensor

from mmssl_ext.old_names import new_name
from mmssl_ext.unwrap import unwrap

from .facts import accumulation


def gather(runner: Any) -> dict[str, Any]:
    """Return the state of all ranks, each of which must call this."""
    return {
        "random": all_gather_object(own_generators(runner)),
        "gradients": _waiting_gradients(runner),
        "memory": _waiting_memory(runner),
    }


def restore(runner: Any, state: dict[str, Any]) -> None:
    """Take this rank's share of what :func:`gather` returned."""
    generators = state["random"]
    set_random_state(generators[runner.rank % len(generators)])
    _restore_gradients(runner, state.get("gradients") or {})
    _restore_memory(runner, state.get("memory") or [])


def own_generators(runner: Any) -> dict[str, Any]:
    """The generators of this rank, or those that a loop has set aside."""
    paused = getattr(runner.train_loop, "paused_random_state", None)
    return random_state() if paused is None else paused


def random_state() -> dict[str, Any]:
    """Return the state of the generators of torch, CUDA, NumPy and Python."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": [int(position), int(has_gauss), float(cached)],
        "python": torch.tensor(words),
        "python_rest": [version, gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    keys = state["numpy"].cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, *state["numpy_rest"]))  # noqa: NPY002
    version, gauss = state["python_rest"]
    random.setstate((version, tuple(state["python"].tolist()), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@torch.no_grad()
def _waiting_gradients(runner: Any) -> dict[str, Tensor]:
    """Accumulated gradients by the names of their parameters; none between two steps.

    Of several ranks it is the mean, which is what they would come to with the step.
    """
    if accumulation(runner) == 1 or runner.optim_wrapper.should_update():
        return {}
    parameters = dict(unwrap(runner.model).named_parameters())
    found = {k: p.grad for k, p in parameters.items() if p.grad is not None}
    if runner.world_size == 1:
        return found
    means = {}
    for name in sorted(set().union(*all_gather_object(list(found)))):
        own = found.get(name)
        means[name] = torch.zeros_like(parameters[name]) if own is None else own.clone()
        all_reduce(means[name], op="mean")
    return means


@torch.no_grad()
def _restore_gradients(runner: Any, gradients: dict[str, Tensor]) -> None:
    parameters = dict(unwrap(runner.model).named_parameters())
    for name, gradient in gradients.items():
        parameter = parameters[name if name in parameters else new_name(name)]
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


Memory = list[dict[str, dict[str, Tensor]]]  # by iteration, part of the method and kind


def _waiting_memory(runner: Any) -> Memory:
    """What a method is yet to remember; rows of all ranks, in their order."""
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


def _restore_memory(runner: Any, waiting: Memory) -> None:
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


def queue_forms() -> dict[str, str]:
    """What trials of this process chose; nothing where no queue has been used."""
    # Importing it would import mmpretrain's models, for which a transfer has no use.
    forms = sys.modules.get("mmssl_ext.models.losses.queue_forms")
    return {} if forms is None else forms.trials()


def take_over_queue_forms(chosen: dict[str, str]) -> None:
    """Go on by the trials of the run that is resumed."""
    if chosen:
        from mmssl_ext.models.losses.queue_forms import take_over

        take_over(chosen)
