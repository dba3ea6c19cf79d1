"""InfoNCE without the negatives of the query's own cluster (after IFND, 2106.03719)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import info_nce, same_label_sums, soft_nce
from .clustered import ClusteredQueue

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class FalseNegativeSoftmax(ClusteredQueue):
    """``QueueSoftmax`` that knows which keys may be of the query's class.

    Slots of the query's cluster are false negatives; the loss is the mean over the
    levels of clusters. While there are none it is that of ``QueueSoftmax``, to the last
    bit.

    Args:
        temperature: T.
        length: Number of keys K.
        levels: Numbers of clusters.
        action: ``"eliminate"``: false negatives leave the denominator. ``"attract"``:
            they are positives, too, with the weight of the own one each.
        **kwargs: As for :class:`ClusteredQueue`.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        length: int = 65536,
        levels: Sequence[int] = (1000, 5000, 25_000),
        action: str = "eliminate",
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature, length, levels, **kwargs)
        if action not in ("eliminate", "attract"):
            raise UserValueError(
                f"action={action!r} must be one of eliminate, attract: false negatives "
                "leave the denominator, or become positives."
            )
        self.action = action

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """Mean loss of the pairs; ``false_negatives`` of a query goes to the log."""
        labels = self.labels(step)
        if not labels:
            return super().forward(method, step)
        losses = []
        for a, b in method.pairs:
            q, k = step.online[a]["embedding"], step.target[b]["embedding"]
            parts = [self.level(q, k, names) for names in labels]
            losses.append(torch.stack(parts).mean())
        step.figures["false_negatives"] = self.count(labels[0])
        return {"instance": method.over_pairs(losses)}

    def level(self, q: Tensor, k: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of N x D queries with labels of queries and slots, N and K."""
        queue = self.queue.keys
        if self.action == "eliminate":
            return info_nce(q, k, queue, self.temperature, labels=labels).mean()
        sums, counts = same_label_sums(queue, labels)
        mean = (k.detach() + sums) / (1 + counts)[:, None]  # of the positives, N x D
        return soft_nce(q, mean, queue, self.temperature, positives=k).mean()
