"""What a checkpoint must hold, and be, for a run to go on exactly."""

from __future__ import annotations

from mmengine.hooks import Hook

from mmssl_ext.registry import HOOKS


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Save and restore the rest of the state of a run; refuse one that does not fit."""
