"""Softmax over a queue and mixtures of its hardest keys (MoCHi, arXiv 2010.01028)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import draw_mixtures, mix_negatives, queue_topk
from ..losses.hard_mixing import Mixtures
from ..schedules import schedule
from .queue import QueueSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class MixedNegativesSoftmax(QueueSoftmax):
    """Each query must pick its target out of the queue and of harder, mixed negatives.

    Mixed are, for each query anew, the keys of the queue that resemble it most, in
    pairs and with the query itself; see
    :func:`~mmssl_ext.models.losses.mix_negatives`. They are candidates of that query
    alone and are never remembered. The draws follow from the iteration and from the
    place of the image in the batch of all ranks. Queries of terms, such as the parts of
    ``Regions``, are compared with the queue alone.

    Args:
        temperature: T.
        length: Number of keys K; well below the size of the dataset.
        num_hardest: N, keys that are mixed.
        num_mixed: s, mixtures of two of them for each query.
        num_with_query: s', mixtures of one of them and the query.
        mixing: Which share of these mixtures is made: a number up to 1, or a
            :class:`~mmssl_ext.models.schedules.Schedule`, such as the paper's
            ``dict(kind="step", start=0, end=1, until=15, unit="epoch")``. 0 is MoCo.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    remedy = "lower num_hardest, to about a 64th of queue_len"

    def __init__(
        self,
        temperature: float = 0.2,
        length: int = 65536,
        num_hardest: int = 1024,
        num_mixed: int = 1024,
        num_with_query: int = 128,
        mixing: float | Mapping[str, Any] = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(temperature, length, init_cfg)
        counts = {
            "num_hardest": num_hardest,
            "num_mixed": num_mixed,
            "num_with_query": num_with_query,
        }
        for name, count in counts.items():
            if type(count) is not int or count < (name == "num_hardest"):
                raise UserValueError(
                    f"{name}={count!r} must be a whole number of negatives; "
                    "num_mixed=0 and num_with_query=0 are MoCo."
                )
        self.num_hardest = self.sought = num_hardest
        self.num_mixed = num_mixed
        self.num_with_query = num_with_query
        self.mixing = schedule(mixing, "mixing", high=1.0)
        self.schedules = (self.mixing,)

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """See :class:`Comparison`."""
        share = self.mixing(method.clock)
        sizes = [round(share * n) for n in (self.num_mixed, self.num_with_query)]
        losses, generator = [], None
        for a, b in method.pairs:
            q, k = step.online[a]["embedding"], step.target[b]["embedding"]
            negatives = None
            if sum(sizes):
                if generator is None:
                    generator = torch.Generator(q.device)
                    generator.manual_seed(method.clock.draw_seed)  # equal on all ranks
                negatives = self.mix(q.detach(), sizes, generator)
            losses.append(self.pair(q, k, negatives))
        return {"instance": method.over_pairs(losses)}

    def mix(self, q: Tensor, sizes: list[int], generator: torch.Generator) -> Tensor:
        """Mixed negatives of queries, N x (s + s') x D, constant."""
        queue, count = self.queue.keys, len(q)
        _, hardest = queue_topk(q, queue, self.num_hardest)  # N x H
        rows = count * get_world_size()
        drawn = draw_mixtures(rows, self.num_hardest, sizes, generator)
        own = slice(get_rank() * count, (get_rank() + 1) * count)
        return mix_negatives(q, queue, hardest, Mixtures(*(x[own] for x in drawn)))
