"""The soft target of a key: itself and its neighbours (ASCL, arXiv 2207.11163)."""

import math

import torch
from torch import Tensor

from .queue_attention import Labels, attend
from .queue_topk import queue_topk


@torch.no_grad()
def neighbour_target(
    k: Tensor,
    candidates: Tensor,
    temperature: float,
    num_neighbours: int,
    *,
    hard: bool = False,
    adaptive: bool = True,
    own: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean of each key and its neighbours under the key's soft target.

    With ``p = softmax_j(k . n_j / T)`` over M candidates, its entropy H and the
    confidence ``c = 1 - H / log M`` (1 where it is not ``adaptive``)

        y_j = min(1, num c p_j)                   soft
        y_j = c for the num largest p_j, else 0   hard
        mu  = (k + sum_j y_j n_j) / (1 + sum_j y_j)

    so that the target's mass sums to 1 and the key itself keeps the largest part. At
    most num - 1 of the soft ones reach 1, since p sums to 1: one pass over the
    candidates gives ``sum_j p_j n_j`` and H, and from the largest ``num - 1`` is taken
    off what is above 1. Nothing of size N x M is stored.

    Args:
        k: Keys, N x D, unit rows.
        candidates: M x D, unit rows.
        temperature: T > 0.
        num_neighbours: num, 0 to the number of candidates of a key; at 0 ``mu`` is k.
        hard: Only the nearest count, all alike.
        adaptive: By the confidence of each key.
        own: Positions of the keys among the candidates, N, where they are some: no key
            is its own neighbour, and M is one less.

    Returns:
        ``mu``, N x D, and c, N, fp32 or wider.

    Raises:
        ValueError: Sizes do not fit.
    """
    labels, count = None, len(candidates)
    if own is not None:
        labels, count = (own, torch.arange(count, device=own.device)), count - 1
    mean, lse = attend(k, candidates, 1 / temperature, labels)  # N x D, N
    k, candidates = k.to(mean.dtype), candidates.to(mean.dtype)
    entropy = lse - (k * mean).sum(1) / temperature
    confidence = (1 - entropy / math.log(count)).clamp(0, 1)
    factor = confidence if adaptive else torch.ones_like(confidence)  # N
    top = num_neighbours if hard else num_neighbours - 1
    values, nearest = _nearest(k, candidates, top, labels)  # N x top, N x top x D
    if hard:
        whole, more = torch.zeros_like(factor), factor[:, None].expand_as(values)
    else:
        whole = num_neighbours * factor
        share = (values / temperature - lse[:, None]).exp()  # p of the largest
        more = -(whole[:, None] * share - 1).clamp(min=0)  # what is above 1
    mass = 1 + whole + more.sum(1)
    total = k + whole[:, None] * mean + (more[..., None] * nearest).sum(1)
    return total / mass[:, None], confidence


def _nearest(
    k: Tensor, candidates: Tensor, count: int, labels: Labels | None
) -> tuple[Tensor, Tensor]:
    """Similarities of the nearest candidates, N x count, and these, N x count x D."""
    if count < 1:
        return k.new_zeros(len(k), 0), k.new_zeros(len(k), 0, k.shape[1])
    values, places = queue_topk(k, candidates, count, labels)
    return values, candidates[places]


def told_apart(k: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Append a row of the identity to each key and zeros to ``k``, N x D.

    No similarity changes, and the last M numbers of a mean of the M keys are the
    weights that they have in it.
    """
    eye = torch.eye(len(keys)).to(keys)  # M x M
    zeros = k.new_zeros(len(k), len(keys))  # N x M
    return torch.cat([k, zeros], 1), torch.cat([keys, eye], 1)
