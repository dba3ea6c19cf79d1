"""Stop on a signal, with everything saved."""

from __future__ import annotations

from mmengine.hooks import Hook

from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Finish the step, save and exit where SIGTERM or SIGUSR1 asks for it."""
