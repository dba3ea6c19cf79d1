"""Do the maps of a backbone fit what takes them? Tried on zeros, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmssl_ext.errors import ConfigError


def check_maps(model: nn.Module) -> None:
    """Compare the backbone's maps with its neck, or with the head of a segmentor.

    Models in which neither says what it takes are let pass.

    Raises:
        ConfigError: They do not fit; the message says what to set.
    """
    backbone, neck = getattr(model, "backbone", None), getattr(model, "neck", None)
    taker = getattr(model, "decode_head", None) if neck is None else neck
    wanted = getattr(taker, "in_channels", None)
    if not isinstance(backbone, nn.Module) or wanted is None:
        return
    found = _channels(backbone)
    if found is None:
        return
    if neck is not None:
        # Some necks name them from the last to the first.
        if not isinstance(wanted, (list, tuple)) or sorted(found) == sorted(wanted):
            return
    elif _taken(found, taker) == wanted:
        return
    part = "neck" if neck is not None else "decode_head"
    options = getattr(backbone, "out_indices", None)
    told = f" (out_indices={options})" if options is not None else ""
    raise ConfigError(
        f"{type(backbone).__name__} returns maps of {_shown(found)} channels{told}, "
        f"but {type(taker).__name__} takes {_shown(wanted)}: let "
        "model.backbone.out_indices name the maps of these channels, or set "
        f"model.{part}.in_channels to those of the backbone. The variable backbone= of "
        "the configs does both."
    )


def _channels(backbone: Any) -> list[int] | None:
    """Of its maps; None where it fails on 3 x 64 x 64 zeros or returns none."""
    modes = {module: module.training for module in backbone.modules()}
    first = next((p for p in backbone.parameters()), None)
    device = "cpu" if first is None else first.device
    backbone.eval()
    try:
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, 64, 64, device=device))
        return [x.shape[1] for x in maps if x.ndim == 4] or None
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError):
        return None
    finally:
        for module, mode in modes.items():
            module.training = mode


def _taken(found: Sequence[int], head: Any) -> Any:
    """Channels of what a segmentor's head takes of the maps; None where it cannot."""
    index = getattr(head, "in_index", -1)
    places = list(index) if isinstance(index, Sequence) else [index]
    if not all(-len(found) <= i < len(found) for i in places):
        return None
    taken = [found[i] for i in places]
    if isinstance(head.in_channels, (list, tuple)):
        return taken if isinstance(head.in_channels, list) else tuple(taken)
    return sum(taken)  # of one map, or of all, enlarged and side by side


def _shown(numbers: Any) -> str:
    many = isinstance(numbers, Sequence)
    return ", ".join(map(str, numbers if many else [numbers]))
