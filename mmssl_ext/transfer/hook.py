"""Verify before the first step that the pretrained weights still stand."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmssl_ext.engine.weights.record import (
    describe_backbone,
    describe_input,
    input_changes,
    structure_changes,
)
from mmssl_ext.errors import CheckpointFileError, ConfigError
from mmssl_ext.registry import HOOKS

from .handover import (
    Handover,
    PretrainedBackbone,
    fingerprint,
    handovers,
    unwrapped,
)


@HOOKS.register_module()
class HandoverHook(Hook):
    """Check what ``PretrainedBackbone`` loaded when all initialisation is over.

    Warns where the images are normalised otherwise than in the pretraining.

    Raises:
        CheckpointFileError: Something re-initialised a loaded tensor.
        ConfigError: A backbone that is not trained has other strides or another stem
            than the pretrained one: its features would not be those of the weights. Or
            a module has not called ``PretrainedBackbone`` though it names it.
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
        if getattr(model, "is_init", True):  # a test does not initialise by itself
            self._check_asked(model, found)
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
            self._check_structure(runner, name, handover)
        for handover in {h.sha256: h for h in found.values()}.values():
            self._check_images(runner, handover)

    def _check_asked(self, model: nn.Module, found: Container[str]) -> None:
        """Refuse modules that never asked for the weights that they name."""
        for name, module in model.named_modules():
            given = getattr(module, "init_cfg", None)
            configs = [given] if isinstance(given, dict) else given or []
            kinds = [str(config.get("type", "")) for config in configs]
            named = any(kind.endswith(PretrainedBackbone.__name__) for kind in kinds)
            if named and name not in found:
                raise ConfigError(
                    f"{name} names PretrainedBackbone in its init_cfg, but the "
                    f"init_weights of {type(module).__name__} reads checkpoints in a "
                    "way of its own, which nothing verifies. Remove the init_cfg and "
                    "start from a file with the names of the whole model by load_from."
                )

    def _check_structure(self, runner: Any, name: str, handover: Handover) -> None:
        """Refuse to evaluate features that the weights were not trained for."""
        module = unwrapped(runner.model).get_submodule(name)
        changes = structure_changes(handover.record, describe_backbone(module))
        if not changes:
            return
        trainable = any(p.requires_grad for p in module.parameters())
        if runner._train_loop is None or not trainable:
            raise ConfigError(
                f"The frozen {name} would compute other features from the weights of "
                f"{handover.checkpoint} than they were trained for: "
                f"{'; '.join(changes)}. Set the options of model.{name} to those of "
                "the file."
            )

    def _check_images(self, runner: Any, handover: Handover) -> None:
        """Warn where the images are not normalised as in the pretraining."""
        preprocessor = getattr(unwrapped(runner.model), "data_preprocessor", None)
        now = describe_input(preprocessor)
        if changes := input_changes(handover.record, now):
            runner.logger.warning(
                f"The weights of {handover.checkpoint} were trained on images prepared "
                f"in another way: {'; '.join(changes)}. Set mean, std and the order of "
                "the channels of model.data_preprocessor to those of the file."
            )
        elif "mean" in handover.record["input"] and _is_plain(preprocessor, runner):
            runner.logger.warning(
                f"The weights of {handover.checkpoint} were trained on normalised "
                f"images (mean {handover.record['input']['mean']}), but neither "
                "model.data_preprocessor has a mean nor the pipeline a Normalize: set "
                "mean and std to those of the file."
            )
        elif "mean" in now and "channel_order" not in handover.record["input"]:
            first, _, last = now["mean"]
            known = "mean" in handover.record["input"]
            if now.get("channel_order") == "BGR" or (first < last and not known):
                runner.logger.warning(
                    "The data preprocessor seems to deliver BGR images, the pretrained "
                    "weights expect RGB: set bgr_to_rgb=True and the mean and std in "
                    "the order of R, G, B."
                )


def _is_plain(preprocessor: Any, runner: Any) -> bool:
    """Whether nothing normalises the images: they reach the model as 0 to 255."""
    if getattr(preprocessor, "_enable_normalize", True):
        return False
    loaders = ("train_dataloader", "test_dataloader")
    return not any("Normalize" in str(runner.cfg.get(name)) for name in loaders)
