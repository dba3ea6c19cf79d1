"""What a checkpoint must hold, and be, for a run to go on exactly."""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    get_rank,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from torch import Tensor

from mmssl_ext.compat import load_from, resumes, train_loop
from mmssl_ext.old_names import new_name
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .facts import DATA, accumulation, data_of, facts, sampler
from .loops import ExactEpochLoop, random_state, set_random_state
from .resume import check_resume
from .schedule import adapt


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Save and restore the rest of the state of a run; refuse one that does not fit.

    ``checkpoint["training_state"]``, tensors and plain data, holds the state of the
    random generators of all ranks (``random``), the place in the epoch (``batch``,
    ``validation_due``, ``sampler_seed``), ``gradients`` and keys
    (``memory``) that wait for the rest of an optimizer step, forms of the queue's
    softmax that were found by trial (``queue_forms``), and what is compared on a
    resume (:mod:`mmssl_ext.engine.checkpoint.resume`): method, optimizer, batch, the
    config as plain data and, in ``meta``, which files the data consist of
    (:mod:`mmssl_ext.datasets.identity`, looked at once by rank 0).
    Where one of these cannot go together with the checkpoint, the run is refused before
    any weight is loaded; where it can, what has changed is warned of. Schedules and
    options of the optimizer are the config's: a run that is to be longer goes on as if
    it had been from its start (:mod:`mmssl_ext.engine.checkpoint.schedule`).

    With :class:`~mmssl_ext.engine.checkpoint.loops.ExactEpochLoop` and keyed
    augmentation (``DrawKeyHook``), a run that was killed at any iteration and resumed
    from its last checkpoint ends, on as many threads of a CPU, with the same bits as
    one that never stopped. In a loop without epochs, and with transforms that draw from
    the generators of a worker, it sees the same images but draws other augmentations.

    Args:
        allow_other_data: Go on although the training data are others.

    Raises:
        CheckpointFileError: The checkpoint does not fit this run.
    """

    priority = "VERY_HIGH"

    def __init__(self, allow_other_data: bool = False) -> None:
        self.allow_other_data = allow_other_data
        self._data: dict[str, Any] | None = None  # on rank 0
        self._gathered: tuple[int, dict[str, Any]] = -1, {}  # to be saved
        self._pending: dict[str, Any] | None = None  # to be restored

    # Restore, in this order

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check a checkpoint that is resumed from; take its state over."""
        loop = train_loop(runner)
        if not (resumes(runner) and isinstance(loop, BaseLoop)):
            return
        allowed = self.allow_other_data
        warnings, self._data = check_resume(runner, checkpoint, allowed)
        for text in warnings:
            runner.logger.warning(text)
        for text in adapt(runner, checkpoint):
            runner.logger.info(text)
        self._pending = state = checkpoint.get("training_state")
        if state is None:
            return
        _take_over_queue_forms(state.get("queue_forms") or {})
        if state.get("gradients"):
            runner.logger.addFilter(_no_lost_gradients)
        # mmengine restores the seed when samplers have long taken another one.
        order = sampler(loop.dataloader)
        if hasattr(order, "seed"):
            order.seed = state["sampler_seed"]
        if isinstance(loop, ExactEpochLoop):
            loop.resumed_batch = state["batch"]
            loop.validation_due = state["validation_due"]

    def before_train(self, runner: Any) -> None:
        """Say where nothing is left; look at the data, for the checkpoints to come."""
        self._say_if_finished(runner)
        if self._data is None and is_main_process():
            self._data = data_of(runner)
        runner.logger.removeFilter(_no_lost_gradients)

    def restore_random_state(self, runner: Any) -> None:
        """Restore what was in hand, when the loop says that it goes on from here."""
        if self._pending is not None:
            _restore(runner, self._pending)
            self._pending = None

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Restore it in loops that do not say when to."""
        self.restore_random_state(runner)

    # Save

    def before_write_checkpoint(self, runner: Any) -> None:
        """Gather the generators of all ranks, and what waits for an optimizer step."""
        self._gathered = runner.iter, _gather(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Put the state into the checkpoint."""
        loop = train_loop(runner)
        if not isinstance(loop, BaseLoop):
            return
        when, gathered = self._gathered
        waiting: dict[str, Any] = {"gradients": {}, "memory": []}
        self._gathered = when, {**gathered, **waiting}
        if when != runner.iter:  # mmengine's own hook saves: nobody has gathered
            gathered = {"random": [_own_generators(runner)], **waiting}
        meta, batch, due = checkpoint["meta"], 0, False
        if self._data is not None:
            meta[DATA] = self._data
        if isinstance(loop, ExactEpochLoop):
            batch, due = loop.position(meta["epoch"], meta["iter"])
        checkpoint["training_state"] = {
            **facts(runner),
            **gathered,
            "batch": batch,
            "validation_due": due,
            "sampler_seed": getattr(sampler(loop.dataloader), "seed", None),
            "queue_forms": _queue_forms(),
        }

    def _say_if_finished(self, runner: Any) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        unit, done, whole = (
            ("epochs", loop.epoch, loop.max_epochs)
            if by_epoch
            else ("iters", loop.iter, loop.max_iters)
        )
        due = getattr(loop, "validation_due", False)
        if resumes(runner) and done >= whole and not due:
            runner.logger.warning(
                f"The run is finished: {done} of {whole} {unit} were done in "
                f"{load_from(runner)}, so nothing is trained. To train longer, raise "
                f"train_cfg.max_{unit}."
            )


def _no_lost_gradients(record: logging.LogRecord) -> bool:
    """Keep back what mmengine says of gradients that are lost, where they are not."""
    return "Resumed iteration number is not divisible" not in record.getMessage()


# What a run has in hand between two steps, besides its model and its optimizer


def _gather(runner: Any) -> dict[str, Any]:
    """Return the state of all ranks, each of which must call this."""
    return {
        "random": all_gather_object(_own_generators(runner)),
        "gradients": _waiting_gradients(runner),
        "memory": _waiting_memory(runner),
    }


def _restore(runner: Any, state: dict[str, Any]) -> None:
    """Take this rank's share of what :func:`_gather` returned."""
    generators = state["random"]
    set_random_state(generators[runner.rank % len(generators)])
    _restore_gradients(runner, state.get("gradients") or {})
    _restore_memory(runner, state.get("memory") or [])


def _own_generators(runner: Any) -> dict[str, Any]:
    """The generators of this rank, or those that a loop has set aside."""
    paused = getattr(runner.train_loop, "paused_random_state", None)
    return random_state() if paused is None else paused


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


def _queue_forms() -> dict[str, str]:
    """What trials of this process chose; nothing where no queue has been used."""
    # Importing it would import mmpretrain's models, for which a transfer has no use.
    forms = sys.modules.get("mmssl_ext.models.losses.queue_forms")
    return {} if forms is None else forms.trials()


def _take_over_queue_forms(chosen: dict[str, str]) -> None:
    """Go on by the trials of the run that is resumed."""
    if chosen:
        from mmssl_ext.models.losses.queue_forms import take_over

        take_over(chosen)
