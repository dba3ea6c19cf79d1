"""Tell a model where the training stands."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

from mmengine.hooks import Hook

from mmssl_ext.engine.checkpoint.facts import accumulation
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .state import Training

_TOTAL = "method_iterations"  # of the whole training, in the message hub
_RAW = "(^|/)raw_"  # of figures before their weight, in the log
_ENDED = "method_epochs"  # epochs whose end the model has followed


@HOOKS.register_module()
class MethodHook(Hook):
    """Let a method follow the run: its length, epochs, and the optimizer's steps.

    Schedules of weights and momenta need the number of iterations; with
    ``optim_wrapper.accumulative_counts`` above one, target and queue must move with the
    steps of the optimizer; a bank is filled before the epoch that needs it.
    :class:`~mmssl_ext.run.runner.SSLRunner` has this hook without being told.

    A model takes part by ``clock`` (:class:`~mmssl_ext.models.memory.Clock`),
    ``start``, ``start_epoch``, ``end_epoch`` and ``drop_frozen``, as
    :class:`~mmssl_ext.models.algorithms.Method`.

    Raises:
        UserError: The run does not suit the method.
    """

    priority = "HIGH"  # before all that evaluates

    def before_train(self, runner: Any) -> None:
        """Set the clock; let the model check the run."""
        model = unwrap(runner.model)
        self._model: Any = model if hasattr(model, "start_epoch") else None
        if self._model is None:
            return
        clock = model.clock
        clock.total, clock.epoch_length = runner.max_iters, len(runner.train_dataloader)
        clock.accumulation = accumulation(runner)
        clock.set(runner.iter)
        if runner.iter == 0:
            runner.message_hub.update_info(_ENDED, 0)
        else:
            _rename_figures(runner.message_hub.log_scalars)
        _average_raw(runner.log_processor)
        self._training = Training(runner)
        model.start(self._training)
        self._tell_length(runner)
        # Between the backward pass and the step no hook of mmengine is called.
        self._frozen = runner.optim_wrapper.optimizer.register_step_pre_hook(
            lambda *_: model.drop_frozen(runner.iter)
        )

    def after_train(self, runner: Any) -> None:
        """Leave the optimizer as it was."""
        if self._model is not None:
            self._frozen.remove()

    def _tell_length(self, runner: Any) -> None:
        """Say what a resumed run changes by being longer or shorter than before."""
        hub, clock = runner.message_hub, self._model.clock
        now, before = clock.total, hub.get_info(_TOTAL)
        hub.update_info(_TOTAL, now)
        if runner.iter == 0 or before in (None, now):
            return
        for schedule in self._model.schedules:
            if schedule.follows_length:
                value, clock.total = schedule(clock), before
                other, clock.total = schedule(clock), now
                runner.logger.info(
                    f"{schedule.name} goes on until the end of the training, now {now} "
                    f"iterations, {before} when the checkpoint was written: after "
                    f"{runner.iter} of them it is {value:.4g}; it would be {other:.4g}."
                )

    def before_train_epoch(self, runner: Any) -> None:
        """Let the model fill what the epoch needs."""
        if self._model is not None:
            self._model.start_epoch(self._training)

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Keep the clock right, whatever happened in between."""
        if self._model is not None:
            self._model.clock.set(runner.iter)

    def after_train_epoch(self, runner: Any) -> None:
        """Let the model follow the end of the epoch, once."""
        hub = runner.message_hub
        # A run that was stopped by a later hook calls this one again.
        if self._model is not None and hub.get_info(_ENDED, 0) <= runner.epoch:
            self._model.end_epoch(self._training)
            hub.update_info(_ENDED, runner.epoch + 1)


def _rename_figures(scalars: MutableMapping[str, Any]) -> None:
    """Let the curves that version 0.1 called ``nce_x`` go on as ``raw_x``."""
    for name in [name for name in scalars if name.startswith("train/nce_")]:
        scalars.setdefault(name.replace("/nce_", "/raw_"), scalars.pop(name))


def _average_raw(processor: Any) -> None:
    """Log ``raw_x`` as mmengine logs ``loss_x``: the mean over a window, not one value.

    A log processor without ``mean_pattern`` (older mmengine) is left alone.
    """
    pattern = getattr(processor, "mean_pattern", None)
    text = getattr(pattern, "pattern", pattern)
    if isinstance(text, str) and _RAW not in text:
        processor.mean_pattern = re.compile(f"{text}|{_RAW}")
