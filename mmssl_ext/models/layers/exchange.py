"""Rows that change places between the ranks: the shuffle of shuffle-BN.

MoCo (arXiv 1911.05722, section 3.3) encodes the keys in batches that are mixed over the
ranks. A rank needs N of the W * N images, so exactly those are sent to it. Gathering
everything everywhere sends W times as much, and four times as much again where floats
travel instead of the uint8 images that MoCo exchanges.
"""

from typing import NamedTuple

import torch
from mmengine.dist import get_comm_device, get_rank, get_world_size
from torch import Tensor
from torch.distributed import all_to_all_single


class Exchange(NamedTuple):
    """What this rank sends and gets when the rows of all ranks change places.

    Attributes:
        sends: Own rows in the order of sending, by the rank that gets them, N.
        takes: Which of the rows that arrive, by the rank they come from, is this rank's
            first, second, ... from now on, N.
        num_sent: How many go to every rank, W numbers.
        num_taken: How many come from every rank, W numbers.
    """

    sends: Tensor
    takes: Tensor
    num_sent: list[int]
    num_taken: list[int]


def plan_exchange(order: Tensor, device: torch.device) -> Exchange:
    """Work out on the host who sends what, without asking anyone.

    Args:
        order: Permutation of the W * N rows of all ranks, on the CPU and the same on
            every rank: row ``order[p]`` becomes row p.
        device: Where the rows lie.
    """
    world_size, rank = get_world_size(), get_rank()
    wanted = order.view(world_size, -1)  # by the rank that gets the rows, W x N
    num_rows = wanted.shape[1]
    source = wanted // num_rows
    own = source == rank
    return Exchange(
        _move(wanted[own] - rank * num_rows, device),
        _move(source[rank].argsort(stable=True).argsort(), device),
        own.sum(1).tolist(),
        source[rank].bincount(minlength=world_size).tolist(),
    )


def exchange_rows(x: Tensor, plan: Exchange) -> Tensor:
    """Let the rows of all ranks change places.

    Args:
        x: This rank's rows, N x ..., of any dtype and memory format; shape, dtype and
            format are the same on every rank. No gradient passes.
        plan: Of :func:`plan_exchange`.

    Returns:
        The N rows that are this rank's now, in the memory format of ``x``.
    """
    # In the order in which a row lies in memory, so that it is copied as one piece.
    layout = [0, *sorted(range(1, x.ndim), key=x.stride, reverse=True)]
    rows = x.detach().permute(layout).index_select(0, plan.sends)
    if get_world_size() > 1:
        # Bytes, since not every backend knows every dtype.
        sent = rows.view(len(x), -1).view(torch.uint8).to(get_comm_device())
        taken = torch.empty_like(sent)
        all_to_all_single(taken, sent, plan.num_taken, plan.num_sent)
        arrived = taken.to(x.device).view(x.dtype).view(rows.shape)
        rows = arrived.index_select(0, plan.takes)
    return rows.movedim(tuple(range(x.ndim)), layout)


def shuffle_batch(x: Tensor, seed: int) -> tuple[Tensor, Exchange]:
    """Permute the images of all ranks.

    Every rank draws the same permutation from ``seed``, so it needs no broadcast, and a
    resumed run draws what the uninterrupted one would have drawn.

    Args:
        x: This rank's images, N x ...; N is the same on every rank.
        seed: E.g. the number of the step; equal on all ranks.

    Returns:
        This rank's N of the permuted images, and the way back for
        :func:`unshuffle_batch`.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(get_world_size() * len(x), generator=generator)
    back = plan_exchange(order.argsort(), x.device)
    return exchange_rows(x, plan_exchange(order, x.device)), back


def unshuffle_batch(x: Tensor, back: Exchange) -> Tensor:
    """Undo :func:`shuffle_batch` on anything computed row by row (N x ...)."""
    return exchange_rows(x, back)


def _move(index: Tensor, device: torch.device) -> Tensor:
    # From pinned memory, or a GPU would be waited for.
    index = index.pin_memory() if device.type == "cuda" else index
    return index.to(device, non_blocking=True)
