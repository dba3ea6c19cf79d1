"""Similarities of a batch's images to each other, views exchanged or not.

Inspired by XMoCo (arXiv 2206.04676), of which the abstract alone could be read: every
formula here is a reconstruction.

    S_ij = q_i . k_j      image i in the query's view, image j in the key's
    S_ji = q_j . k_i      the same two images, views exchanged
"""

import math

import torch
from torch import Tensor


def cross_squares(there: Tensor, back: Tensor) -> Tensor:
    """``sum_{j != i} (S_ij - S_ji)^2 / (B - 1)`` of each image.

    Args:
        there: S_ij of N images to the B of the batch, N x B, B >= 2.
        back: S_ji, N x B.

    Returns:
        N, in [0, 4] for unit vectors.
    """
    return (there - back).square().sum(1) / (there.shape[1] - 1)  # S_ii - S_ii is 0


def cross_divergence(
    there: Tensor, back: Tensor, own: Tensor, temperature: float
) -> Tensor:
    """``[KL(P_i || R_i) + KL(R_i || P_i)] / 2`` of each image, N, in nats.

    P_i is the softmax of S_ij / T over ``j != i``, R_i that of S_ji / T.

    Args:
        there: S_ij, N x B.
        back: S_ji, N x B.
        own: Which column is the image itself, N.
        temperature: T > 0.
    """
    log_p, log_r = (
        (others(x, own) / temperature).log_softmax(1) for x in (there, back)
    )
    return ((log_p.exp() - log_r.exp()) * (log_p - log_r)).sum(1) / 2


def cross_uniformity(there: Tensor, own: Tensor, temperature: float) -> Tensor:
    """``KL(u || P_i)`` of each image, N, in nats; u is uniform over the others.

    ``logsumexp_j(S_ij / T) - mean_j S_ij / T - ln(B - 1)`` over ``j != i``. Arguments
    as of :func:`cross_divergence`.
    """
    log_p = (others(there, own) / temperature).log_softmax(1)  # N x (B - 1)
    return -log_p.mean(1) - math.log(log_p.shape[1])


def others(similarity: Tensor, own: Tensor) -> Tensor:
    """Similarities without those of the image itself, N x (B - 1)."""
    count = similarity.shape[1]
    places = torch.arange(count - 1, device=own.device).expand(len(own), -1)
    return similarity.gather(1, places + (places >= own[:, None]))
