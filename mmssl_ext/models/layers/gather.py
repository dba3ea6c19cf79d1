"""Rows of all ranks, with their gradient."""

import torch
from mmengine.dist import get_world_size
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all ranks, N x ... each, in rank order: W N x ...

    The gradient comes back from all ranks, so that a loss of the whole batch has the
    gradient that it would have on one device. Every rank must bring as many rows.
    """
    return torch.cat(all_gather(x)) if get_world_size() > 1 else x
