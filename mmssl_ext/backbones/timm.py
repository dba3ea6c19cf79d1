"""Backbones of timm, which is asked for their maps; no weights are read."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.text import closest

from .backbone import Backbone
from .table import Family

_STRIDES = (4, 8, 16, 32)


@functools.cache
def timm_backbone(name: str) -> Backbone:
    """A backbone of timm, by mmpretrain's ``TIMMBackbone``.

    Args:
        name: ``timm:resnet26d``; the tag of pretrained weights is left out.

    Raises:
        UserError: timm is not installed.
        UserValueError: It knows no such model, or the model has no maps.
    """
    model = name.removeprefix("timm:").split(".")[0]
    timm = _timm(name)
    if not re.fullmatch(r"\w+", model) or not timm.is_model(model):
        near = closest(model, timm.list_models())
        raise UserValueError(f"timm has no model '{model}'.{near}")
    arch: dict[str, Any] = {"model_name": model, "features_only": True}
    arch |= _options(timm.model_entrypoint(model))
    net = _without_memory(timm, name, arch)
    channels, strides = net.feature_info.channels(), net.feature_info.reduction()
    flat = len(set(strides)) == 1
    if flat:
        levels: tuple[int, ...] = (len(net.model.feature_info) - 1,)
        channels = channels[-1:] * 4
        fits = strides[0] == 16 and "dynamic_img_size" in arch
    else:
        levels = tuple(i for i, x in enumerate(strides) if x in _STRIDES)
        fits = tuple(strides[i] for i in levels) == _STRIDES
        channels = [channels[i] for i in levels]
    if not fits:
        raise UserValueError(
            f"{name} cannot be carried into a detector: its maps have strides of "
            f"{', '.join(map(str, strides))}, not 4, 8, 16 and 32, or 16 in a ViT that "
            "takes images of every size. Take another model, such as timm:resnet26d or "
            "timm:vit_small_patch16_224."
        )
    norm = _has_batch_norm(net)
    family = Family(
        title="timm",
        type="TIMMBackbone",
        names="timm:.*",
        examples=(name,),
        make=lambda match: (arch, tuple(channels)),
        levels=levels,
        adamw=() if norm else (5e-4, 0.05),
        tuned=() if norm else (1e-4, 0.05),
        flat=flat,
        memory=0.4 if flat else 2.0,
    )
    return Backbone(f"timm:{model}", family, arch, tuple(channels))


def timm_embedding(name: str) -> dict[str, Any]:
    """Config of a network of timm whose output is one vector per image.

    Args:
        name: ``timm:NAME``, with or without the tag of its weights.
    """
    model = name.removeprefix("timm:").split(".")[0]
    options = _options(_timm(name).model_entrypoint(model))
    kept = ("dynamic_img_size", "strict_img_size")
    sizes = {key: options[key] for key in kept if key in options}
    return {"type": "TimmEmbedding", "model_name": model, **sizes}


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"backbone={name!r} needs timm: pip install 'mmssl_ext[timm]'."
        ) from error
    return timm


def _options(entry: Any) -> dict[str, Any]:
    """Options by which it learns from the first step, from images of every size."""
    module = inspect.getmodule(entry)
    kind = (module.__name__ if module else "").rpartition(".")[2]
    if kind in ("vision_transformer", "deit", "eva"):
        return {"dynamic_img_size": True}
    if kind in ("resnet", "regnet", "byobnet"):
        # Else half of it starts without a gradient.
        return {"zero_init_last": False}
    if kind in ("swin_transformer", "swin_transformer_v2"):
        # The getter returns N x C x h x w, the list of its stages N x h x w x C.
        return {"strict_img_size": False, "feature_cls": "getter"}
    return {}


def _without_memory(timm: Any, name: str, arch: dict[str, Any]) -> Any:
    """The network without its numbers."""
    import torch

    options = {k: v for k, v in arch.items() if k != "model_name"}
    try:
        try:
            with torch.device("meta"):
                return timm.create_model(arch["model_name"], **options)
        except (NotImplementedError, RuntimeError):  # it looks at a number, as many did
            return timm.create_model(arch["model_name"], **options)
    except Exception as error:  # whatever a model of timm has against it
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserValueError(
            f"{name} cannot be a backbone: timm builds it without maps "
            f"(features_only=True: {reason}). Take another model."
        ) from error


def _has_batch_norm(net: Any) -> bool:
    from mmssl_ext.compat import BatchNorm

    return any(isinstance(m, BatchNorm) for m in net.modules())
