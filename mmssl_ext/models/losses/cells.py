"""Cells of two maps whose places in the image are known: PixPro, PixContrast, LC-loss.

Here ``x``, ``y``, ``r`` are cells or points of one view, ``k`` and ``t`` the constant
ones of another view of the same images, N x P x C. Everything is in single precision at
least, also under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers import unit

_EPS = 1e-6  # of PixPro's mean


def cosines(x: Tensor, k: Tensor) -> Tensor:
    """Of all cells with all cells of the same image, N x P x Q."""
    with torch.autocast(x.device.type, enabled=False):
        return unit(x) @ unit(k).mT


def propagate(x: Tensor, values: Tensor, gamma: float) -> Tensor:
    """Gather for each cell what similar cells of its view have (PixPro, equation 2).

    ``y_i = sum_j max(cos(x_i, x_j), 0)^gamma values_j / |values_j|``: a sum, no mean.

    Returns:
        N x P x C, not normalised.
    """
    with torch.autocast(x.device.type, enabled=False):
        return cosines(x, x).clamp(min=0).pow(gamma) @ unit(values)


def pair_cosine(y: Tensor, k: Tensor, near: Tensor) -> Tensor:
    """Mean cosine of the pairs of each image, N; 0 where it has none.

    Args:
        y: N x P x C.
        k: N x Q x C.
        near: The pairs, N x P x Q bool.
    """
    total = torch.where(near, cosines(y, k), 0.0).sum((1, 2))
    return total / (near.sum((1, 2)).to(total) + _EPS)


def pair_contrast(x: Tensor, k: Tensor, near: Tensor, temperature: float) -> Tensor:
    """How badly each cell tells its pairs from the rest of the other view, N.

    ``-log sum_pairs e^(cos/T) / sum_all e^(cos/T)`` (PixContrast, equation 1), a mean
    over the cells that have a pair; 0 where no cell of an image has.
    """
    logits = cosines(x, k) / temperature
    some = near.any(2)  # N x P
    counted = near | ~some[..., None]  # without a pair: all, for a finite gradient
    found = logits.masked_fill(~counted, -torch.inf).logsumexp(2)
    losses = torch.where(some, logits.logsumexp(2) - found, 0.0)
    return losses.sum(1) / some.sum(1).clamp(min=1)


def point_contrast(
    r: Tensor, t: Tensor, negatives: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE of points whose positive has the same number.

    Args:
        r: N x M x C.
        t: N x M x C.
        negatives: Which of the other points are negatives, N x M x M bool. A point
            without any is left out.
        temperature: T.

    Returns:
        The loss of each point, N x M, 0 of those left out; and a mask of the others.
    """
    logits = cosines(r, t) / temperature  # N x M x M
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    counted = (negatives & ~own).any(2)  # N x M
    total = logits.masked_fill(~(negatives | own), -torch.inf).logsumexp(2)
    positive = logits.diagonal(dim1=1, dim2=2)
    return torch.where(counted, total - positive, 0.0), counted


def across_images(allowed: Tensor, valid: Tensor) -> Tensor:
    """Negatives within images, and all points of other images besides.

    Args:
        allowed: Within, N x M x M bool.
        valid: Which points there are, N x M.

    Returns:
        1 x N*M x N*M bool.
    """
    same = torch.eye(len(valid), dtype=torch.bool, device=valid.device)
    every = valid[:, :, None, None] & valid  # N x M x N x M
    whole = torch.where(same[:, None, :, None], allowed[:, :, None], every)
    return whole.flatten(2).flatten(0, 1)[None]
