"""Cells of two feature maps that look alike (DenseCL, arXiv 2011.09157), and more."""

import torch
from torch import Tensor

from .queue_attention import queue_logsumexp


@torch.no_grad()
def match_cells(query: Tensor, key: Tensor) -> Tensor:
    """The most similar key cell of every query cell (section 3.3).

    One-directional: several query cells may match the same key cell.

    Args:
        query: Backbone features of the query view, N x A x C, unit rows.
        key: Those of the key view, N x B x C, unit rows.

    Returns:
        Index in [0, B), N x A; of equal similarities, the first.
    """
    with torch.autocast(query.device.type, enabled=False):  # rounding makes ties
        return (query @ key.transpose(1, 2)).argmax(2)


def take_cells(cells: Tensor, index: Tensor) -> Tensor:
    """Pick cells N x B x D by an index N x A from :func:`match_cells`: N x A x D."""
    return cells.gather(1, index[:, :, None].expand(-1, -1, cells.shape[2]))


@torch.no_grad()
def neighbour_cells(
    query: Tensor, key: Tensor, count: int, mutual: bool = False
) -> tuple[Tensor, Tensor]:
    """The most similar key cells of every query cell, in place of one.

    Args:
        query: Backbone features of the query view, N x A x C, unit rows.
        key: Those of the key view, N x B x C, unit rows.
        count: n, how many; at 1 the match of :func:`match_cells`.
        mutual: Keep those alone of whose neighbours, n query cells, the query cell is
            one.

    Returns:
        Indices in [0, B), N x A x n, and which of them are kept, N x A x n bool.
    """
    with torch.autocast(query.device.type, enabled=False):
        likeness = query @ key.mT  # N x A x B
    index = _nearest(likeness, count)
    if not mutual:
        return index, torch.ones_like(index, dtype=torch.bool)
    back = torch.zeros_like(likeness, dtype=torch.bool)
    back.scatter_(1, _nearest(likeness.mT, count).mT, True)  # N x A x B
    return index, back.gather(2, index)


def _nearest(likeness: Tensor, count: int) -> Tensor:
    if count == 1:  # topk does not say which of equal ones it takes
        return likeness.argmax(2, keepdim=True)
    return likeness.topk(count, 2).indices


def several_positives(
    r: Tensor, t: Tensor, kept: Tensor, queue: Tensor, temperature: float
) -> Tensor:
    """InfoNCE of several positives, each alone against the queue, averaged.

    ``mean_b [logaddexp(lse, s_b) - s_b]`` over those kept, with ``s_b = r . t_b / T``
    and the queue's log-sum-exp: no positive is in the denominator of another.

    Args:
        r: Queries, M x D, unit rows.
        t: n positives of each, M x n x D, constant.
        kept: Which of them count, M x n.
        queue: Negative keys, K x D, constant.
        temperature: T > 0.

    Returns:
        One loss per query, M, fp32 or wider; 0 where no positive is kept.
    """
    lse = queue_logsumexp(r, queue, temperature)[:, None]  # M x 1
    s = (r[:, None].to(lse.dtype) * t.to(lse.dtype)).sum(2) / temperature  # M x n
    losses = torch.where(kept, torch.logaddexp(lse, s) - s, 0.0)
    return losses.sum(1) / kept.sum(1).clamp(min=1)
