"""Targets that compute the same of the same images."""

from __future__ import annotations

from torch import nn

# By their names, of mmcv, mmpretrain, timm and torchvision.
_CHANCES = {"DropPath": "drop_prob", "StochasticDepth": "p"}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def without_dropout(module: nn.Module) -> nn.Module:
    """Switch dropout and stochastic depth (drop path) off, in place, for all modes.

    A target network stays in training mode for its BatchNorm; noise in what is compared
    with would only hurt, so MoCo v3 and DINO have none there.
    """
    for part in module.modules():
        chance = _CHANCES.get(type(part).__name__)
        if chance is not None:
            setattr(part, chance, 0.0)
        elif isinstance(part, _DROPOUTS):
            part.p = 0.0
    return module
