"""Projectors and predictors that work on every cell of a map alone."""

import itertools

from torch import nn


def cell_mlp(*channels: int, last_norm: bool = False) -> nn.Sequential:
    """Convolutions of 1 x 1 with BatchNorm and ReLU between them.

    Args:
        *channels: Of the input, the hidden layers and the output.
        last_norm: BatchNorm without affine ends it, as in SimSiam's projector; else the
            last convolution has a bias.
    """
    *hidden, (last_in, out) = itertools.pairwise(channels)
    layers: list[nn.Module] = []
    for size, width in hidden:
        layers.append(nn.Conv2d(size, width, 1, bias=False))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    layers.append(nn.Conv2d(last_in, out, 1, bias=not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm2d(out, affine=False))
    return nn.Sequential(*layers)
