"""Verify before the first step that the pretrained weights still stand."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook

from mmssl_ext.engine.errors import CheckpointFileError
from mmssl_ext.registry import HOOKS

from .handover import fingerprint, handovers, unwrapped


@HOOKS.register_module()
class HandoverHook(Hook):
    """Check what ``PretrainedBackbone`` loaded when all initialisation is over.

    Raises:
        CheckpointFileError: Something re-initialised a loaded tensor.
    """

    def before_train(self, runner: Any) -> None:
        """Compare fingerprints; a resumed run has weights of its own."""
        if runner.iter > 0 or runner._load_from is not None:
            return
        self.verify(runner)

    def before_test(self, runner: Any) -> None:
        """Verify an evaluation of the pretrained weights themselves."""
        if runner._train_loop is None and runner._load_from is None:
            self.verify(runner)

    def verify(self, runner: Any) -> None:
        """Compare the fingerprint of every module that took weights."""
        model = unwrapped(runner.model)
        found = handovers(model)
        if not found:
            runner.logger.info("No pretrained weights: the model starts at random.")
        for name, handover in found.items():
            state = model.get_submodule(name).state_dict()
            loaded = {n: state[n] for n in handover.report.matched}
            if fingerprint(loaded) != handover.fingerprint:
                raise CheckpointFileError(
                    f"The weights that {name} took from {handover.checkpoint} were "
                    "changed before training began: another init_cfg or init_weights "
                    "of the model initialises them again. Remove it."
                )
            runner.logger.info(f"{name}: {handover.line()} All stand in the model.")
        if found:
            self._check_colours(runner, model)

    def _check_colours(self, runner: Any, model: torch.nn.Module) -> None:
        preprocessor = getattr(model, "data_preprocessor", None)
        mean = getattr(preprocessor, "mean", None)
        if isinstance(mean, torch.Tensor) and mean.numel() == 3:
            # mmdet's and mmseg's name; mmpretrain's may be given RGB by the loader.
            names = ("_channel_conversion", "channel_conversion")
            known = [vars(preprocessor)[n] for n in names if n in vars(preprocessor)]
            if not all(known) or mean.flatten()[0] < mean.flatten()[2]:
                runner.logger.warning(
                    "The data preprocessor seems to deliver BGR images, the pretrained "
                    "weights expect RGB: set bgr_to_rgb=True and the mean and std in "
                    "the order of R, G, B."
                )
