"""The backbone of a checkpoint as a module, with the preparation of its images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor, nn

from mmssl_ext.compat import let_train_return
from mmssl_ext.datasets import CenterCrop, DecodeBands, DecodeImage, ResizeShort
from mmssl_ext.engine.config.strict import check_names
from mmssl_ext.engine.weights.files import State, Weights, read_weights, some
from mmssl_ext.engine.weights.match import best_prefix
from mmssl_ext.engine.weights.record import Record
from mmssl_ext.engine.weights.report import averages_down, block_counts
from mmssl_ext.errors import CheckpointFileError, ConfigError, UserTypeError
from mmssl_ext.fit import check_parts, pooled
from mmssl_ext.registry import MODELS, SCOPE
from mmssl_ext.transfer.handover import (
    OF_A_RESNET,
    PretrainedBackbone,
    backbone_in,
)

from .networks import checkpoint_of

__all__ = ["Preprocess", "load_backbone"]

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# Options of training, which change nothing of the network in eval mode.
_OF_TRAINING = ("frozen_stages", "norm_eval", "with_cp")
# Where other weights would come from.
_OF_WEIGHTS = ("init_cfg", "pretrained", "checkpoint", "checkpoint_path")
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


@dataclass
class Preprocess:
    """From an image to what a backbone takes: upright, resized, cut, normalised.

    Attributes:
        size: The short side is resized to so many pixels, then the central square cut.
        mean: Of the channels in units of 0 to 255, in their order.
        std: Likewise.
        bgr: The network takes blue first; mean and std are in that order then.
        bands: None for RGB, else what :class:`DecodeBands` is told.
        value_range: Likewise.
    """

    size: int = 224
    mean: Sequence[float] = _IMAGENET[0]
    std: Sequence[float] = _IMAGENET[1]
    bgr: bool = False
    bands: int | Sequence[int] | None = None
    value_range: Any = None

    @classmethod
    def of(cls, record: Record) -> Preprocess:
        """As the record of weights says; what it leaves out is as for ImageNet."""
        told = record["input"]
        mean, std = (told.get(name) or () for name in ("mean", "std"))
        if bands := told.get("bands"):
            return cls(mean=mean, std=std, bands=bands, value_range=_pairs(told))
        bgr = told.get("channel_order") == "BGR"
        if not len(mean) == len(std) == 3 or min(std) <= 0:  # of three channels each
            mean, std = (x[::-1] if bgr else x for x in _IMAGENET)
        return cls(mean=mean, std=std, bgr=bgr)

    def __call__(self, image: str | os.PathLike[str] | Image.Image | Any) -> Tensor:
        """Prepare one image.

        Args:
            image: Path, PIL image or uint8 array H x W x 3; of bands an array
                H x W x C of a file's values.

        Returns:
            3 x size x size in float32, of bands C x size x size; ``torch.stack`` makes
            a batch of several.

        Raises:
            UnreadableImageError: It cannot be decoded.
        """
        if isinstance(image, (str, os.PathLike)):
            given: dict[str, Any] = {"img_path": os.fspath(image)}
        elif isinstance(image, (Image.Image, np.ndarray)):
            given = {"img": image}
        else:
            raise UserTypeError(
                "preprocess takes a path, a PIL image or a uint8 array H x W x 3, but "
                f"was given {type(image).__name__}."
            )
        return self.normalise(self.pixels(given)[None])[0]

    def pixels(self, results: dict[str, Any]) -> Tensor:
        """The part that is done image by image.

        Args:
            results: What a dataset of this package tells of an image, see
                :class:`DecodeImage`.

        Returns:
            uint8 RGB, 3 x size x size, or bands in float32, C x size x size.
        """
        for step in (self.decoder(), ResizeShort(self.size), CenterCrop(self.size)):
            results = step(results)
        return torch.from_numpy(results["img"]).permute(2, 0, 1).contiguous()

    def decoder(self) -> DecodeImage | DecodeBands:
        """What reads an image as in the training of the weights."""
        if self.bands is None:
            return DecodeImage()
        return DecodeBands(self.bands, self.value_range)

    def normalise(self, batch: Tensor) -> Tensor:
        """The rest, of a batch of :meth:`pixels`, N x C x H x W on any device."""
        mean, std = (
            torch.tensor(x, dtype=torch.float32, device=batch.device).view(-1, 1, 1)
            for x in (self.mean, self.std)
        )
        return ((batch.flip(1) if self.bgr else batch).float() - mean) / std


def load_backbone(
    checkpoint: str | os.PathLike[str], encoder: str = "query"
) -> nn.Module:
    """Load the backbone of a checkpoint, every tensor verified.

    The network is built as the config in the file says (which is read as data: nothing
    of it is run); where it has none, as the ResNet that its tensors and its record
    show. So checkpoints of this package and of mmpretrain give any backbone that is
    registered here, files of other libraries a ResNet, ResNeXt or wide ResNet.

    Args:
        checkpoint: Path of the file; any layout that :class:`PretrainedBackbone` reads.
            Or the folder of a run, whose last checkpoint is meant.
        encoder: ``query``, the trained encoder, or ``key``, its momentum average.

    Returns:
        The module in eval mode on the CPU. ``module(images)``, N x 3 x H x W or with
        the bands that it was trained on, returns a tuple of maps N x C x h x w;
        ``module.out_channels`` is the C of the last one, and
        ``module.preprocess(path)`` makes one of the images of a file, a PIL image or an
        array (:class:`Preprocess`).

    Raises:
        UserTypeError: ``checkpoint`` is no path.
        UserValueError: It is empty.
        CheckpointFileError: There is no such file, it has no weights or not of this
            encoder, or its network cannot be built.
    """
    checkpoint = checkpoint_of(checkpoint)
    fill = PretrainedBackbone(os.fspath(checkpoint), encoder)
    weights = read_weights(checkpoint)
    module = _built(weights, encoder)
    fill(module, weights)
    let_train_return(module)
    module.eval()
    preprocess = Preprocess.of(weights.record)
    module.preprocess = preprocess  # type: ignore[assignment]
    module.out_channels = _channels(module)  # type: ignore[assignment]
    return module


def check_size(module: nn.Module, size: int) -> int:
    """Try a backbone on an image of ``size`` pixels; return its last channels.

    Raises:
        UserValueError: It fails on images of that size.
    """
    preprocess = getattr(module, "preprocess", Preprocess())
    images = torch.zeros(1, len(preprocess.mean), size, size)
    with torch.no_grad():
        check_parts(SimpleNamespace(backbone=module), images)
        return pooled(module(images)).shape[1]


def _pairs(told: Mapping[str, Any]) -> Any:
    """``value_range`` of a record as ``DecodeBands`` takes it."""
    values = told.get("value_range")
    return np.reshape(values, (2, -1)).T.tolist() if values else None


def _channels(module: nn.Module) -> int:
    known = getattr(module, "feat_dim", None)  # of mmpretrain's ResNets
    return known if isinstance(known, int) else check_size(module, 224)


def _built(weights: Weights, encoder: str) -> nn.Module:
    """The network without its weights."""
    said = ""
    if weights.backbone.get("type"):
        try:
            return _build(weights.backbone)
        except _NOT_BUILT as error:
            reason = " ".join(str(error).split()).rstrip(".")
            said = (
                f" The {weights.backbone['type']} of its config cannot be built: "
                f"{reason}."
            )
    facts = weights.record["backbone"]
    if all(
        best_prefix(OF_A_RESNET, weights.tensors, kind) is None
        for kind in ("query", "key")
    ):
        kind = facts.get("type")
        said = said or (
            f" It was trained as {kind}, with options that the file does not tell."
            if kind
            else " It holds no ResNet, and no config that says what else it is; its "
            f"names begin: {some(weights.tensors)}."
        )
        raise CheckpointFileError(f"{weights.path} gives no backbone.{said}")
    try:
        state = backbone_in(weights, encoder)[0]
        return _build(_resnet(state, facts))
    except _NOT_BUILT as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointFileError(
            f"The network in {weights.path} cannot be built: {reason}.{said}"
        ) from error


# What registries and constructors raise where a config is not theirs.
_NOT_BUILT = (
    *(ConfigError, KeyError, TypeError, ValueError, AssertionError, ImportError),
    *(AttributeError, IndexError, RuntimeError, NotImplementedError),
)


def _build(config: Mapping[str, Any]) -> nn.Module:
    """Build from a config that is anyone's: it may name registered classes only.

    Raises:
        ConfigError: It names something else, or a place on the net.
    """
    plain = _harmless({k: v for k, v in config.items() if k not in _OF_TRAINING})
    check_names(plain, "model.backbone")
    with DefaultScope.overwrite_default_scope(SCOPE):
        module = MODELS.build(plain)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{plain['type']} is no network")
    return module


def _harmless(value: Any) -> Any:
    """A config without BatchNorm across ranks, other weights and addresses."""
    if isinstance(value, Mapping):
        return {k: _harmless(v) for k, v in value.items() if k not in _OF_WEIGHTS}
    if isinstance(value, (list, tuple)):
        return type(value)(_harmless(item) for item in value)
    if value in ("SyncBN", "MMSyncBN", "NaiveSyncBN"):
        return "BN"
    if isinstance(value, str) and re.match(r"hf[-_]hub|\w+://", value):
        raise ConfigError(f"it names {value!r}, from where nothing is loaded")
    return value


def _resnet(state: State, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the ResNet that has these tensors.

    Args:
        state: By torchvision's names.
        facts: What its record says of the backbone.
    """
    blocks, bottlenecks = block_counts(state)
    depth = _DEPTHS.get((blocks, bottlenecks))
    if depth is None:
        kind = "bottlenecks" if bottlenecks else "blocks"
        raise ConfigError(
            f"no ResNet has {'-'.join(map(str, blocks))} {kind} in its stages"
        )
    first = state["layer1.0.conv1.weight"]  # width x stem x k x k
    config: dict[str, Any] = {
        "type": "ResNet",
        "depth": depth,
        "stem_channels": first.shape[1],
        "base_channels": first.shape[0],
        "avg_down": averages_down(state),
    }
    stem = state.get("conv1.weight", state.get("stem.0.weight"))
    if stem is not None and stem.shape[1] != 3:  # bands
        config["in_channels"] = stem.shape[1]
    if "conv1.weight" not in state:
        config["deep_stem"] = True
    elif state["conv1.weight"].shape[-1] == 3:
        config["type"] = "ResNet_CIFAR"
    if bottlenecks:
        width, out = first.shape[0], state["layer1.0.conv3.weight"].shape[0]
        groups = width // state["layer1.0.conv2.weight"].shape[1]
        config["expansion"] = max(1, out // width)
        if groups > 1:
            config |= {"type": "ResNeXt", "expansion": 4, "base_channels": out // 4}
            config |= {"groups": groups, "width_per_group": width // groups}
    told = ("strides", "dilations", "style")
    return config | {name: facts[name] for name in told if facts.get(name)}
