"""How sure the label of a cluster is, and which count (after IFND, 2106.03719)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..losses import queue_logsumexp

_ROWS = 65536  # whose confidence is computed at once


def confidence(
    features: Tensor, labels: Tensor, centroids: Tensor, temperature: float
) -> Tensor:
    """``softmax_j(e_i.c_j / T_c)`` at the label of each image, n, in (0, 1).

    Args:
        features: e, n x D unit rows.
        labels: Cluster of each image, n.
        centroids: c, C x D, of any length.
        temperature: T_c.
    """
    centroids = normalize(centroids, dim=1)
    found = []
    for rows, names in zip(features.split(_ROWS), labels.split(_ROWS), strict=True):
        own = (rows * centroids[names.long()]).sum(1) / temperature
        found.append((own - queue_logsumexp(rows, centroids, temperature)).exp())
    return torch.cat(found)


def accept(labels: Tensor, sure: Tensor, rate: float) -> Tensor:
    """The labels of the share ``rate`` of the images, n, that are surest, else -1.

    Of equally sure ones the first count.
    """
    count = math.ceil(rate * len(labels) - 1e-9)
    chosen = sure.argsort(descending=True, stable=True)[:count]
    return torch.full_like(labels, -1).index_copy_(0, chosen, labels[chosen])
