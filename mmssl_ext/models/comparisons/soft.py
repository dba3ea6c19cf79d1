"""Softmax over a queue whose label the target's neighbours share (ASCL, 2207.11163)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import neighbour_target, soft_nce
from ..losses.soft_targets import told_apart
from ..part import check_positive
from .queue import QueueSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class NeighbourSoftmax(QueueSoftmax):
    """Each query must pick its target and, in part, the target's neighbours.

    The label of a query is that of :func:`~mmssl_ext.models.losses.neighbour_target`;
    the loss is its cross-entropy with the softmax over target and queue. The mean
    confidence of the targets goes to the log.

    Args:
        temperature: T of the loss.
        length: Number of keys K; well below the size of the dataset.
        target_temperature: T of the target's own profile of the queue.
        num_neighbours: How many keys of the queue share in a label; 0 is MoCo.
        hard: Only the nearest ones, all alike; else each by its similarity.
        adaptive: The less, the flatter the profile is.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    targets_learn = False
    remedy = "raise queue_len above num_neighbours"

    def __init__(
        self,
        temperature: float = 0.1,
        length: int = 65536,
        target_temperature: float = 0.05,
        num_neighbours: int = 1,
        hard: bool = False,
        adaptive: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(temperature, length, init_cfg)
        check_positive("target_temperature", target_temperature)
        self.target_temperature = target_temperature
        self.num_neighbours = check_neighbours(num_neighbours)
        self.sought = max(2, num_neighbours)
        self.hard, self.adaptive = hard, adaptive

    def soften(self, k: Tensor, queue: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean key under each label, N x D, and the targets' confidence, N."""
        return neighbour_target(
            k,
            self.queue.keys if queue is None else queue,
            self.target_temperature,
            self.num_neighbours,
            hard=self.hard,
            adaptive=self.adaptive,
        )

    def shares(self, k: Tensor, keys: Tensor) -> Tensor:
        """See :class:`Comparison`."""
        return self.soften(*told_apart(k, keys))[0][:, k.shape[1] :]

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; the label of a query gives its negatives nothing."""
        return self._contrast(q, k, self.soften(k)[0], negatives)

    def _contrast(
        self, q: Tensor, k: Tensor, mean: Tensor, negatives: Tensor | None = None
    ) -> Tensor:
        k, mean = (x.detach().repeat(len(q) // len(x), 1) for x in (k, mean))  # M x D
        queue, temperature = self.queue.keys, self.temperature
        return soft_nce(q, mean, queue, temperature, negatives, positives=k).mean()

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """See :class:`Comparison`."""
        losses, confidence = [], []
        for a, b in method.pairs:
            k = step.target[b]["embedding"]
            mean, sure = self.soften(k)
            losses.append(self._contrast(step.online[a]["embedding"], k, mean))
            confidence.append(sure)
        step.figures["confidence"] = torch.cat(confidence).mean()
        return {"instance": method.over_pairs(losses)}


def check_neighbours(num: int) -> int:
    """Return a number of neighbours if it is one, else say what to change."""
    if type(num) is not int or num < 0:
        raise UserValueError(
            f"num_neighbours={num!r} must be a whole number; 1 is usual, and 0 leaves "
            "every image alone."
        )
    return num
