"""Where an iteration stands among those whose gradients make a step."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from ..resume import accumulation


@HOOKS.register_module()
class AccumulationHook(Hook):
    """Tell the model how many iterations the optimizer's next step has gathered.

    With ``optim_wrapper.accumulative_counts`` above one, what follows the steps of the
    optimizer, like a momentum encoder, must move with the first of them only.
    :class:`~mmssl_ext.engine.runner.SSLRunner` has this hook without being told.
    """

    priority = "VERY_HIGH"

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Set ``gathered`` of a model that has it."""
        model = unwrap(runner.model)
        if hasattr(model, "gathered"):
            model.gathered = runner.iter % accumulation(runner)
