"""Tell a model where the training stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.hooks import Hook

from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from ..errors import ConfigError, UserError
from ..resume import accumulation
from ..training import Training

_ENDED = "method_epochs"  # epochs whose end the model has followed


@HOOKS.register_module()
class MethodHook(Hook):
    """Let a method follow the run: its length, epochs, and the optimizer's steps.

    Schedules of weights and momenta need the number of iterations; with
    ``optim_wrapper.accumulative_counts`` above one, target and queue must move with the
    steps of the optimizer; a bank is filled before the epoch that needs it.
    :class:`~mmssl_ext.engine.runner.SSLRunner` has this hook without being told.

    A model takes part by ``clock`` (:class:`~mmssl_ext.models.memory.Clock`),
    ``start``, ``start_epoch`` and ``end_epoch``, as
    :class:`~mmssl_ext.models.algorithms.Method`.

    Raises:
        ConfigError: The run does not suit the method.
    """

    priority = "HIGH"  # before all that evaluates

    def before_train(self, runner: Any) -> None:
        """Set the clock; let the model check the run."""
        model = unwrap(runner.model)
        self._model = model if hasattr(model, "start_epoch") else None
        if self._model is None:
            return
        clock = model.clock
        clock.total, clock.epoch_length = runner.max_iters, len(runner.train_dataloader)
        clock.accumulation = accumulation(runner)
        clock.set(runner.iter)
        if runner.iter == 0:
            runner.message_hub.update_info(_ENDED, 0)
        self._training = Training(runner)
        with _told():
            model.start(self._training)

    def before_train_epoch(self, runner: Any) -> None:
        """Let the model fill what the epoch needs."""
        if self._model is not None:
            with _told():
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


@contextmanager
def _told() -> Iterator[None]:
    """Turn what a method refuses into the user's error."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
