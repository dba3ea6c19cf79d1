"""What a checkpoint must hold, and be, for a run to go on exactly."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop

from mmssl_ext.registry import HOOKS

from .generators import random_state, set_random_state
from .gradients import (
    restore_gradients,
    restore_memory,
    waiting_gradients,
    waiting_memory,
    without_mmengines_warning,
)
from .loops import ExactEpochLoop
from .queue_trials import queue_forms, take_over_queue_forms
from .resume import check_finite, check_kind, check_resume, facts, sampler
from .same_data import META, compare_data, data_of
from .schedule import adapt


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Save and restore the rest of the state of a run; refuse one that does not fit.

    A checkpoint gets the state of the random generators of all ranks, the place in the
    epoch, gradients and keys that wait for the rest of an optimizer step, forms of the
    queue's softmax that were found by trial, and what
    :mod:`mmssl_ext.engine.checkpoint.resume` compares on a resume: method, tensors of
    the model, optimizer, batch, the config as plain data, and which files the data
    consist of (:mod:`mmssl_ext.datasets.identity`, looked at once by rank 0).
    Where one of these cannot go together with the checkpoint, the run is refused before
    any weight is loaded; where it can, what has changed is warned of. Schedules and
    options of the optimizer are the config's: a run that is to be longer goes on as if
    it had been from its start (:mod:`mmssl_ext.engine.checkpoint.schedule`).

    With :class:`~mmssl_ext.engine.checkpoint.loops.ExactEpochLoop` and
    ``AugmentationSeedHook``, a run that was killed at any iteration and resumed from
    its last checkpoint ends, on as many threads of a CPU, with the same bits as one
    that never stopped. In a loop without epochs, and with transforms that draw from
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
        self._gathered: tuple[int, list[dict]] = -1, []
        self._pending: dict[str, Any] | None = None
        self._gradients: dict[str, Any] = {}  # to be saved
        self._memory: list[Any] = []
        self._pending_gradients: dict[str, Any] = {}
        self._pending_memory: list[Any] = []
        self._quiet = ExitStack()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check a checkpoint that is resumed from; take its state over."""
        loop = runner._train_loop
        if not (runner._resume and isinstance(loop, BaseLoop)):
            return
        check_kind(runner, checkpoint)
        check_finite(checkpoint, runner._load_from)
        data, self._data = compare_data(runner, checkpoint, self.allow_other_data)
        for text in check_resume(runner, checkpoint, data):
            runner.logger.warning(text)
        for text in adapt(runner, checkpoint):
            runner.logger.info(text)
        state = checkpoint.get("training_state")
        if state is None:
            return
        take_over_queue_forms(state.get("queue_forms") or {})
        states = state["random"]
        self._pending = states[runner.rank % len(states)]
        self._pending_gradients = state.get("gradients") or {}
        self._pending_memory = state.get("memory") or []
        if self._pending_gradients:
            self._quiet.enter_context(without_mmengines_warning(runner.logger))
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
        self._quiet.close()

    def _say_if_finished(self, runner: Any) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, whole = (
            (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        )
        due = getattr(loop, "validation_due", False)
        if runner._resume and done >= whole and not due:
            unit = "epochs" if by_epoch else "iterations"
            runner.logger.warning(
                f"The run is finished: {done} of {whole} {unit} were done in "
                f"{runner._load_from}, so nothing is trained. To train longer, raise "
                f"train_cfg.max_{'epochs' if by_epoch else 'iters'}."
            )

    def restore_random_state(self, runner: Any) -> None:
        """Restore the generators, when the loop says that it goes on from here."""
        if self._pending is not None:
            set_random_state(self._pending)
            self._pending = None
            restore_gradients(runner, self._pending_gradients)
            restore_memory(runner, self._pending_memory)
            self._pending_gradients, self._pending_memory = {}, []

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Restore the generators in loops that do not say when to."""
        self.restore_random_state(runner)

    def before_write_checkpoint(self, runner: Any) -> None:
        """Gather the generators of all ranks, and what waits for an optimizer step."""
        self._gradients = waiting_gradients(runner)
        self._memory = waiting_memory(runner)
        self._gathered = runner.iter, all_gather_object(_generators(runner))

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Put the state into the checkpoint."""
        loop = runner._train_loop
        if not isinstance(loop, BaseLoop):
            return
        when, states = self._gathered
        if when != runner.iter:  # mmengine's own hook saves: nobody has gathered
            states = [_generators(runner)]
        meta, batch, due = checkpoint["meta"], 0, False
        if self._data is not None:
            meta[META] = self._data
        if isinstance(loop, ExactEpochLoop):
            batch, due = loop.position(meta["epoch"], meta["iter"])
        checkpoint["training_state"] = {
            **facts(runner),
            "random": states,
            "batch": batch,
            "validation_due": due,
            "sampler_seed": getattr(sampler(loop.dataloader), "seed", None),
            "gradients": self._gradients,
            "memory": self._memory,
            "queue_forms": queue_forms(),
        }
        self._gradients, self._memory = {}, []


def _generators(runner: Any) -> dict[str, Any]:
    paused = getattr(runner.train_loop, "paused_random_state", None)
    return random_state() if paused is None else paused
