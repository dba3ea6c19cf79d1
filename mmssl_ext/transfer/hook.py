"""Verify before the first step that the pretrained weights still stand."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from mmengine.hooks import Hook
from torch import nn

from mmssl_ext import compat
from mmssl_ext.engine.weights.record import describe_input, input_text, structure_text
from mmssl_ext.errors import CheckpointFileError, ConfigError
from mmssl_ext.registry import HOOKS
from mmssl_ext.unwrap import unwrap

from .handover import Handover, PretrainedBackbone, fingerprint, handovers
from .maps import check_maps
from .neck import PretrainedNeck

_INITIALIZERS = (PretrainedBackbone.__name__, PretrainedNeck.__name__)


@HOOKS.register_module()
class HandoverHook(Hook):
    """Check what ``PretrainedBackbone`` loaded when all initialisation is over.

    Warns where the images are normalised otherwise than in the pretraining.

    Raises:
        CheckpointFileError: Something re-initialised a loaded tensor.
        ConfigError: The backbone's maps do not fit the neck or head, see
            :func:`~mmssl_ext.transfer.maps.check_maps`. A backbone that is not trained
            has other strides or another stem than the pretrained one: its features
            would not be those of the weights. Or a module has not called
            ``PretrainedBackbone`` though it names it; or a pretrained neck has another
            file's backbone.
    """

    def before_train(self, runner: Any) -> None:
        """Compare fingerprints; a resumed run has weights of its own."""
        if runner.iter == 0:
            check_maps(unwrap(runner.model))
        if runner.iter == 0 and compat.load_from(runner) is None:
            self.verify(runner)

    def before_test(self, runner: Any) -> None:
        """Verify an evaluation of the pretrained weights themselves."""
        if compat.train_loop(runner) is None and compat.load_from(runner) is None:
            self.verify(runner)

    def verify(self, runner: Any) -> None:
        """Compare the fingerprint of every module that took weights."""
        model = unwrap(runner.model)
        found = handovers(model)
        if getattr(model, "is_init", True):  # a test does not initialise by itself
            self._check_asked(model, found)
        _check_necks(found)
        if not found:
            runner.logger.info("No pretrained weights: the model starts at random.")
        for name, handover in found.items():
            module = model.get_submodule(name)
            state = module.state_dict()
            loaded = {n: state[n] for n in handover.report.matched}
            if fingerprint(loaded) != handover.fingerprint:
                raise CheckpointFileError(
                    f"The weights that {name} took from {handover.checkpoint} were "
                    "changed before training began: another init_cfg or init_weights "
                    "of the model initialises them again. Remove it."
                )
            runner.logger.info(f"{name}: {handover.line()} All stand in the model.")
            text = structure_text(handover.record, module, handover.checkpoint)
            trainable = any(p.requires_grad for p in module.parameters())
            if text and (not trainable or compat.train_loop(runner) is None):
                raise ConfigError(f"The {name} is frozen. {text}")
        preprocessor = getattr(model, "data_preprocessor", None)
        for handover in {h.sha256: h for h in found.values()}.values():
            if text := _image_warning(handover, preprocessor, runner):
                runner.logger.warning(text)

    def _check_asked(self, model: nn.Module, found: Container[str]) -> None:
        """Refuse modules that never asked for the weights that they name."""
        for name, module in model.named_modules():
            given = getattr(module, "init_cfg", None)
            configs = [given] if isinstance(given, dict) else given or []
            kinds = [str(config.get("type", "")) for config in configs]
            named = [n for n in _INITIALIZERS for k in kinds if k.endswith(n)]
            if named and name not in found:
                raise ConfigError(
                    f"{name} names {named[0]} in its init_cfg, but the "
                    f"init_weights of {type(module).__name__} reads checkpoints in a "
                    "way of its own, which nothing verifies. Remove the init_cfg and "
                    "start from a file with the names of the whole model by load_from."
                )


def _check_necks(found: Mapping[str, Handover]) -> None:
    """Refuse a neck whose backbone comes from another file."""
    necks = [h for h in found.values() if h.part == PretrainedNeck.part]
    others = {h.sha256: h for h in found.values() if h.part != PretrainedNeck.part}
    for neck in necks:
        if neck.sha256 not in others:
            which = " and ".join(h.checkpoint for h in others.values()) or "nowhere"
            raise ConfigError(
                f"The neck comes from {neck.checkpoint}, but the backbone from "
                f"{which}: a neck reads the maps of the backbone that it was trained "
                "with. Give both the same checkpoint, or set pretrained_neck=False."
            )


def _image_warning(handover: Handover, preprocessor: Any, runner: Any) -> str:
    """What to say where the images are not normalised as in the pretraining."""
    path, record = handover.checkpoint, handover.record
    before, now = record["input"], describe_input(preprocessor)
    if text := input_text(record, preprocessor, path):
        return text
    if "mean" in before and not compat.normalises(preprocessor):
        loaders = ("train_dataloader", "test_dataloader")
        if any("Normalize" in str(runner.cfg.get(name)) for name in loaders):
            return ""
        return (
            f"The weights of {path} were trained on normalised images (mean "
            f"{before['mean']}), but neither model.data_preprocessor has a mean nor "
            "the pipeline a Normalize: set mean and std to those of the file."
        )
    if len(now.get("mean", ())) == 3 and "channel_order" not in before:
        first, _, last = now["mean"]
        swapped = first < last and "mean" not in before
        if swapped or now.get("channel_order") == "BGR":
            return (
                "The data preprocessor seems to deliver BGR images, the pretrained "
                "weights expect RGB: set bgr_to_rgb=True and the mean and std in the "
                "order of R, G, B."
            )
    return ""
