"""Proof that a frozen backbone stayed as it was."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .handover import fingerprint

_HASHES = "frozen_modules"  # in the message hub: survives a resume


@HOOKS.register_module()
class FrozenBackboneHook(Hook):
    """Compare the hashes of a frozen module before, during and after training.

    The SHA-256 of every parameter and buffer, BatchNorm statistics included, is taken
    when training starts and compared at each validation, before each checkpoint and at
    the end; a resumed run compares with the hashes of its first start. The end logs one
    line with the hash of all of them.

    Args:
        module: Name of the frozen submodule.

    Raises:
        ConfigError: Something has changed; the message names it.
    """

    def __init__(self, module: str = "backbone") -> None:
        self.module = module
        self._start: dict[str, str] = {}

    def before_train(self, runner: Any) -> None:
        """Take the hashes."""
        if runner.iter == 0:
            runner.message_hub.update_info(_HASHES, self._hashes(runner))
        self._start = dict(runner.message_hub.get_info(_HASHES))
        self._check(runner, "before training")

    def before_val(self, runner: Any) -> None:
        """Compare, if this is training."""
        self._check(runner, f"by iteration {runner.iter}")

    before_write_checkpoint = before_val

    def after_train(self, runner: Any) -> None:
        """Compare and say so."""
        self._check(runner, "by the end of training")
        module = unwrap(runner.model).get_submodule(self.module)
        runner.logger.info(
            f"Frozen: '{self.module}' ({len(self._start)} tensors) is unchanged after "
            f"{runner.iter} iterations, sha256 {fingerprint(module)}."
        )

    def _hashes(self, runner: Any) -> dict[str, str]:
        state = unwrap(runner.model).get_submodule(self.module).state_dict()
        return {name: fingerprint({name: value}) for name, value in state.items()}

    def _check(self, runner: Any, when: str) -> None:
        now = self._hashes(runner) if self._start else {}
        changed = [n for n, value in self._start.items() if now.get(n) != value]
        if changed:
            more = ", ..." if len(changed) > 5 else ""
            raise ConfigError(
                f"'{self.module}' must stay frozen, but {when} {len(changed)} of its "
                f"{len(now)} tensors have changed: {', '.join(changed[:5])}{more}. "
                "Freeze parameters and BatchNorm statistics: frozen_stages=4 in "
                "mmpretrain's ResNet does both."
            )
