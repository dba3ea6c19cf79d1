"""Checkpoints that hold tensors and plain data only."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import CheckpointHook

from mmssl_ext.registry import HOOKS

from ..checkpoint import restore_histories, to_plain


@HOOKS.register_module()
class PlainCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with files that load under ``weights_only=True``.

    mmengine pickles its log histories (a class of its own, NumPy arrays) into the file;
    here they become tensors on saving, the last 10,000 values of each, and histories
    again on loading. Before an old file is deleted or a new one written, every hook
    with a ``before_write_checkpoint(runner)`` is called and may raise to prevent both.

    Arguments are those of CheckpointHook.
    """

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        runner.call_hook("before_write_checkpoint")
        super()._save_checkpoint_with_step(runner, step, meta)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Replace everything in the checkpoint by tensors and plain data."""
        dropped: list[str] = []
        for key in list(checkpoint):
            checkpoint[key] = to_plain(checkpoint[key], dropped, key)
        hub = checkpoint["message_hub"]
        known = hub["log_scalars"].keys() | hub["runtime_info"].keys()
        hub["resumed_keys"] = {
            key: value for key, value in hub["resumed_keys"].items() if key in known
        }
        if dropped:
            runner.logger.warning(
                "The checkpoint leaves out what is neither tensor nor plain data: "
                f"{', '.join(dropped)}."
            )

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Give mmengine's resume the objects that it expects."""
        if hub := checkpoint.get("message_hub"):
            restore_histories(hub["log_scalars"])
