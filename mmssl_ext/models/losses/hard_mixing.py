"""Hard negatives that are mixed of a queue's hardest ones (MoCHi, arXiv 2010.01028)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..layers import unit


class Mixtures(NamedTuple):
    """What is mixed for each of N queries, by numbers of their hardest negatives.

    Attributes:
        first: One part of the mixtures of two negatives, N x s.
        second: The other part, N x s.
        share: Of the first part, N x s, in [0, 1).
        partner: What the query is mixed with, N x s'.
        query_share: Of the query, N x s', in [0, 0.5).
    """

    first: Tensor
    second: Tensor
    share: Tensor
    partner: Tensor
    query_share: Tensor


def draw_mixtures(
    num_rows: int,
    num_hardest: int,
    counts: Sequence[int],
    generator: torch.Generator,
) -> Mixtures:
    """Draw all anew for every mixture, with replacement, on the generator's device.

    Args:
        num_rows: Queries.
        num_hardest: Negatives of each to draw from.
        counts: s, mixtures of two negatives, and s', of the query and a negative.
        generator: Where the numbers come from.
    """
    s, with_query = counts
    sizes = [s, s, s, with_query, with_query]
    drawn = torch.rand(
        num_rows, sum(sizes), generator=generator, device=generator.device
    )
    first, second, share, partner, query_share = drawn.split(sizes, 1)

    def number(x: Tensor) -> Tensor:
        return (x * num_hardest).long().clamp(max=num_hardest - 1)

    return Mixtures(
        number(first), number(second), share, number(partner), query_share / 2
    )


@torch.no_grad()
def mix_negatives(q: Tensor, queue: Tensor, hardest: Tensor, by: Mixtures) -> Tensor:
    """Synthetic negatives of every query, constant.

        h  = normalise(a n_i + (1 - a) n_j)           s of them, a: share
        h' = normalise(b q + (1 - b) n_j)             s' of them, b: query_share < 1/2

    Args:
        q: Queries, N x D, unit rows.
        queue: Negatives, K x D, unit rows.
        hardest: Positions of each query's hardest negatives, N x H.
        by: What is mixed.

    Returns:
        N x (s + s') x D unit rows, fp32 or wider.
    """
    dtype = torch.promote_types(q.dtype, torch.float)

    def negatives(numbers: Tensor) -> Tensor:  # N x s x D
        return queue[hardest.gather(1, numbers)].to(dtype)

    a, b = by.share[..., None].to(dtype), by.query_share[..., None].to(dtype)
    pairs = torch.lerp(negatives(by.second), negatives(by.first), a)
    with_query = torch.lerp(negatives(by.partner), q[:, None].to(dtype), b)
    return unit(torch.cat([pairs, with_query], 1))
