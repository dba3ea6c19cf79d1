"""No start from weights that do not fit."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from mmssl_ext import compat
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .origin import ORIGIN, find_origin
from .start import check_start


@HOOKS.register_module()
class LoadedWeightsHook(Hook):
    """Verify the weights of ``load_from`` before they are loaded.

    See :mod:`mmssl_ext.engine.weights.start`; a resume is the matter of
    ``ExactResumeHook``. ``SSLRunner`` has this hook whatever the config says.

    Raises:
        CheckpointFileError: They do not fit the model.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Note where the weights of a new run come from, for its checkpoints."""
        if not compat.resumes(runner):
            origin = find_origin(unwrap(runner.model), compat.load_from(runner))
            runner.message_hub.update_info(ORIGIN, origin)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Check what has been read; warn of what differs and may."""
        if compat.resumes(runner):
            return
        training = compat.train_loop(runner) is not None
        path = str(compat.load_from(runner) or "the checkpoint")
        for text in check_start(unwrap(runner.model), checkpoint, path, training):
            runner.logger.warning(text)
