"""Learning rates that a schedule leaves alone."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class FixedRateHook(Hook):
    """Keep the initial learning rate of the parameters marked by ``fix_lr=True``.

    For SimSiam's predictor (arXiv 2011.10566, section 4.1). They are marked in the
    config::

        optim_wrapper = dict(
            paramwise_cfg=dict(custom_keys={"predictor": dict(fix_lr=True)}), ...
        )

    Raises:
        ValueError: Nothing is marked.
    """

    def before_train(self, runner: Any) -> None:
        """Find the marked parameters."""
        groups = runner.optim_wrapper.optimizer.param_groups
        self._groups = [group for group in groups if group.get("fix_lr")]
        if not self._groups:
            raise UserValueError(
                "FixedRateHook: no parameter is marked by fix_lr=True in "
                "optim_wrapper.paramwise_cfg.custom_keys; mark those whose learning "
                "rate shall stay, or remove the hook."
            )

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Undo what the schedule did to them."""
        for group in self._groups:
            group["lr"] = group.get("initial_lr", group["lr"])
