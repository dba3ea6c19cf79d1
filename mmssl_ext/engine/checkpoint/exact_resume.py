"""What a checkpoint must hold, and be, for a run to go on exactly."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from mmssl_ext.compat import load_from, resumes, train_loop
from mmssl_ext.registry import HOOKS

from . import state as states
from .facts import DATA, data_of, facts, sampler
from .loops import ExactEpochLoop
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
        states.take_over_queue_forms(state.get("queue_forms") or {})
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
            states.restore(runner, self._pending)
            self._pending = None

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Restore it in loops that do not say when to."""
        self.restore_random_state(runner)

    # Save

    def before_write_checkpoint(self, runner: Any) -> None:
        """Gather the generators of all ranks, and what waits for an optimizer step."""
        self._gathered = runner.iter, states.gather(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Put the state into the checkpoint."""
        loop = train_loop(runner)
        if not isinstance(loop, BaseLoop):
            return
        when, gathered = self._gathered
        waiting: dict[str, Any] = {"gradients": {}, "memory": []}
        self._gathered = when, {**gathered, **waiting}
        if when != runner.iter:  # mmengine's own hook saves: nobody has gathered
            gathered = {"random": [states.own_generators(runner)], **waiting}
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
            "queue_forms": states.queue_forms(),
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
