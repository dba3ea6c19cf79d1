"""The most similar keys of a queue, without the logits of all of it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmssl_ext.errors import UserValueError

from .queue_attention import (
    Labels,
    Product,
    as_groups,
    fit_labels,
    form_of,
    product_of,
    to_compute_dtype,
)

# One block of similarities: 64 rows by 65,536 keys are 16 MiB in fp32. Selecting costs
# by the row, so blocks are wider than those of the softmax, which a cache must hold.
_ROWS = 64
_ELEMENTS = {"cpu": 2**22, "cuda": 2**24}
_KEYS = 4096  # of one product on a CPU: oneDNN copies them
_PROBE = 1024  # keys by which the form is chosen where they are of another precision
_GROUP = 16  # columns of similarities of which the largest is compared first


@torch.no_grad()
def queue_topk(
    q: Tensor,
    queue: Tensor,
    k: int,
    labels: Labels | None = None,
    *,
    own: bool = False,
) -> tuple[Tensor, Tensor]:
    """The k largest similarities of every query to a queue, and where they are.

    Args:
        q: Queries, N x D, or B x N x D for B queues at once.
        queue: Keys, K x D or B x K x D; those of half precision are widened block by
            block.
        k: How many, 1 to K.
        labels: Labels of the queries, N, and of the slots, K, long: slots of a query's
            own label come last, as ``-inf``. A negative label is unknown and equals
            none.
        own: The other way round: all slots but those of a query's own label come last.

    Returns:
        Similarities ``q_n . queue_j``, N x k (B x N x k), the largest first, fp32 (fp64
        for fp64 input), and their positions j, long; of equal similarities the smaller
        position. Neither has a gradient.

    Raises:
        ValueError: ``k`` is not within 1 to K, or sizes do not fit.
    """
    q = to_compute_dtype(q, queue[..., :_PROBE, :])[0]
    if not 1 <= k <= queue.shape[-2]:
        raise UserValueError(
            f"The {k} nearest of a queue of {queue.shape[-2]} keys were asked for; "
            "take between 1 and all of them."
        )
    shape = q.shape
    if labels is not None:
        labels = fit_labels(labels, q, queue)
    q, queue = as_groups(q), as_groups(queue)
    found: list[tuple[Tensor, Tensor]] = []
    with torch.autocast(q.device.type, enabled=False):
        # No copy of all keys in single precision is made to find the form.
        probe = queue if queue.dtype == q.dtype else queue[:, :_PROBE].to(q.dtype)
        product = product_of(form_of(q, probe))
        rows = max(1, shape[-2] if q.is_cuda else min(_ROWS, shape[-2]))
        elements = _ELEMENTS.get(q.device.type, _ELEMENTS["cpu"])
        length = min(queue.shape[1], max(4 * k, elements // rows))
        # Written again and again: new memory of that size costs page faults.
        buffer = q.new_empty(0 if q.is_cuda else rows * length)
        for group, keys in enumerate(queue):
            for start in range(0, max(1, shape[-2]), rows):
                part = slice(start, start + rows)
                block = _Block(q[group, part], product, buffer, own=own)
                if labels is not None:
                    block.labels = labels[0][group, part], labels[1][group]
                found.append(_nearest(block, keys.split(length), k))
    values, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    return values.view(*shape[:-1], k), places.view(*shape[:-1], k)


@dataclass
class _Block:
    """Some rows, R x D, and how their similarities to keys are computed.

    Attributes:
        rows: R x D.
        product: Of rows and keys.
        buffer: Memory for the similarities; unused on a GPU.
        labels: Of the rows, R, and of all slots, K, if slots are left out.
        own: Those are left out whose label is not the row's.
    """

    rows: Tensor
    product: Product
    buffer: Tensor
    labels: Labels | None = None
    own: bool = False

    def similarities(self, keys: Tensor, start: int) -> Tensor:
        """To the keys from position ``start`` on, R x b; valid until the next call."""
        if self.rows.is_cuda:
            values = self.product(self.rows, keys.to(self.rows.dtype))
        else:
            size = len(self.rows), len(keys)
            values = self.buffer[: math.prod(size)].view(size)
            columns = values.split(_KEYS, 1)
            for part, out in zip(keys.split(_KEYS), columns, strict=True):
                out.copy_(self.product(self.rows, part.to(self.rows.dtype)))
        if self.labels is not None:
            slots = self.labels[1][start : start + len(keys)]
            same = self.labels[0][:, None] == slots  # R x b
            values.masked_fill_(~same if self.own else same, -torch.inf)
        return values


def _nearest(block: _Block, queue: tuple[Tensor, ...], k: int) -> tuple[Tensor, Tensor]:
    """Those of a block of rows: of the best so far and of every further block of keys.

    Positions ascend from block to block, and so they do among equal similarities.
    """
    best, places = _top(block.similarities(queue[0], 0), k)
    start = len(queue[0])
    for keys in queue[1:]:
        values, new = _top(block.similarities(keys, start), min(k, len(keys)))
        best, which = _top(torch.cat([best, values], 1), k)
        places = torch.cat([places, new + start], 1).gather(1, which)
        start += len(keys)
    return best, places


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``values.topk(k)`` of R x b; of equal values, the first come first.

    The k-th largest maximum of k and more groups of columns is no larger than the k-th
    largest value. So only what reaches it in the few groups that reach it is sorted.
    """
    size = min(_GROUP, values.shape[1] // k)
    if values.is_cuda or size < 2:  # a GPU sorts fast and should wait for no count
        values, places = values.sort(dim=1, descending=True, stable=True)
        return values[:, :k].contiguous(), places[:, :k].contiguous()
    length = -(-values.shape[1] // size)
    padded = functional.pad(
        values, (0, size * length - values.shape[1]), value=-torch.inf
    )
    groups = padded.view(-1, size, length)  # column c is in group c % length
    peaks = groups.amax(1)
    least = peaks.topk(k).values[:, -1:]
    row, group = (~(peaks < least)).nonzero(as_tuple=True)  # not a number is largest
    if len(row) > 2 * peaks.shape[0] * k:
        return _top_of_equals(values, k)
    members = groups[row, :, group]
    which, member = (~(members < least[row])).nonzero(as_tuple=True)
    row, places = row[which], member * length + group[which]
    counts = row.bincount(minlength=len(values))
    most = int(counts.max()) if len(values) else k
    column = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    table = torch.full((len(values), most), padded.shape[1])
    table[row, column] = places
    places, order = table.sort(dim=1)
    found = values.new_full((len(values), most), -torch.inf)
    found[row, column] = members[which, member]
    found, order = found.gather(1, order).sort(dim=1, descending=True, stable=True)
    return found[:, :k].contiguous(), places.gather(1, order[:, :k])


def _top_of_equals(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same where so many are equal that a bound sorts out few."""
    ranked = values.masked_fill(values.isnan(), torch.inf)
    least = ranked.topk(k).values[:, -1:]
    above = ranked > least
    equal = ranked == least
    room = k - above.sum(1, keepdim=True)
    equal &= equal.cumsum(1, dtype=torch.int32) <= room
    places = (above | equal).nonzero()[:, 1].view(-1, k)  # ascending
    found = values.gather(1, places)
    found, order = found.sort(dim=1, descending=True, stable=True)
    return found, places.gather(1, order)


@torch.no_grad()
def members_first(u: Tensor, queue: Tensor, chosen: Tensor, near: Tensor) -> Tensor:
    """Rows of a set by their similarity, then the nearest others (CMSF, 2112.04607).

    Args:
        u: N x D unit rows.
        queue: K x D.
        chosen: Rows of the queue in the set of each u, N x s, -1 where there is none.
        near: The k nearest rows of the whole queue, N x k, nearest first.

    Returns:
        N x k rows of the queue, none twice.
    """
    rows = queue[chosen.clamp(min=0)].to(u.dtype)  # N x s x D
    similarity = (u[:, None] * rows).sum(2).masked_fill(chosen < 0, -torch.inf)
    member = (near[:, :, None] == chosen[:, None]).any(2)  # N x k
    k = near.shape[1]
    rest = -2.0 - torch.arange(k, device=u.device)  # below every cosine
    rest = rest.expand(near.shape).masked_fill(member, -torch.inf)
    best = torch.cat([similarity, rest.to(u.dtype)], 1).topk(k).indices
    return torch.cat([chosen, near], 1).gather(1, best)
