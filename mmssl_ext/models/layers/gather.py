"""Rows of all ranks, with their gradient, and means over those of all."""

import torch
from mmengine.dist import all_gather as gather
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all ranks, N x ... each, in rank order: W N x ...

    The gradient comes back from all ranks, so that a loss of the whole batch has the
    gradient that it would have on one device. Every rank must bring as many rows.
    """
    return torch.cat(all_gather(x)) if get_world_size() > 1 else x


def mean_of_all(total: Tensor, count: Tensor) -> Tensor:
    """Mean over the elements of all ranks, of which each rank may have another number.

    Args:
        total: Sum over this rank's elements, a scalar.
        count: Their number, a scalar; it gets no gradient.

    Returns:
        This rank's share of the mean times the number of ranks: the mean over the
        ranks, which their gradients are averaged to, is that of all elements. 0 where
        no rank has one.
    """
    count = count.detach().to(total)
    if (ranks := get_world_size()) > 1:
        count = count.clone()
        all_reduce(count, op="mean")
    return total / count.clamp(min=1 / ranks)


@torch.no_grad()
def logsumexp_of_all(x: Tensor, dim: int) -> Tensor:
    """Log-sum-exp along a dimension that continues on the other ranks, kept as 1.

    Constant, and the same to the last bit on every rank. A rank may have no elements.
    """
    own = x.logsumexp(dim, keepdim=True)
    if get_world_size() == 1:
        return own
    return torch.stack(gather(own.contiguous())).logsumexp(0)
