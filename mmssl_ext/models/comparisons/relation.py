"""Softmax over a queue, which a query sees as its target does (ReSSL, 2107.09282)."""

from __future__ import annotations

from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import attend, soft_nce
from ..losses.soft_targets import told_apart
from ..part import check_positive
from .queue import QueueSoftmax


@MODELS.register_module()
class RelationSoftmax(QueueSoftmax):
    """A query must see the queue as its target sees it, and nothing else is compared.

    ``CE(softmax(k . queue / T_k), softmax(q . queue / T_q))``: the target is no
    candidate, and its profile, the sharper one, is the label.

    Args:
        temperature: T_q.
        length: Number of keys K; well below the size of the dataset.
        target_temperature: T_k.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``target_temperature`` is not below ``temperature``.
    """

    targets_learn = False

    def __init__(
        self,
        temperature: float = 0.1,
        length: int = 65536,
        target_temperature: float = 0.04,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(temperature, length, init_cfg)
        check_positive("target_temperature", target_temperature)
        if target_temperature >= temperature:
            raise UserValueError(
                f"target_temperature={target_temperature} must be below "
                f"temperature={temperature}: labels that are no sharper than what is "
                "to match them let all embeddings become equal."
            )
        self.target_temperature = target_temperature

    def shares(self, k: Tensor, keys: Tensor) -> Tensor:
        """See :class:`Comparison`; no part of a target is its own."""
        mean, _ = attend(*told_apart(k, keys), 1 / self.target_temperature)
        return mean[:, k.shape[1] :]

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; negatives are not used."""
        mean, _ = attend(k, self.queue.keys, 1 / self.target_temperature)  # N x D
        mean = mean.repeat(len(q) // len(k), 1)
        return soft_nce(q, mean, self.queue.keys, self.temperature).mean()
