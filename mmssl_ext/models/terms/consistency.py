"""The consistency term of CO2 (arXiv 2010.02217)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmssl_ext.registry import MODELS

from ..losses import queue_consistency
from ..part import check_positive
from .base import OwnQueue

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module(name=["Consistency", "ConsistencyHead"])
class Consistency(OwnQueue):
    """A query should see the queue as its target sees it.

    Symmetric KL of the two profiles over the K keys
    (:func:`~mmssl_ext.models.losses.queue_consistency`), over all pairs of views. On a
    base without a queue it has one of its own.

    Args:
        temperature: tau_con.
        weight: alpha; see :class:`Term`.
        queue_len: See :class:`OwnQueue`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    name = "consistency"

    def __init__(
        self,
        temperature: float,
        weight: Any = None,
        queue_len: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(queue_len, weight, init_cfg)
        self.temperature = check_positive("temperature", temperature)

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean divergence of queries and targets, a scalar."""
        keys = self.keys(method)
        losses = [
            queue_consistency(
                step.online[a]["embedding"],  # N x D
                step.target[b]["embedding"].detach(),
                keys,
                self.temperature,
            ).mean()
            for a, b in method.pairs
        ]
        return method.over_pairs(losses)
