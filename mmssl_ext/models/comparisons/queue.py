"""InfoNCE against a queue of keys (MoCo, arXiv 1911.05722)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import info_nce
from ..memory import KeyQueue
from ..part import Features, check_positive
from .base import Comparison

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module(name=["QueueSoftmax", "InstanceHead"])
class QueueSoftmax(Comparison):
    """Each query must pick its target out of a queue of earlier targets (equation 1).

    Args:
        temperature: T; 0.2 in MoCo v2, 0.07 in MoCo v1.
        length: Number of negative keys K; well below the size of the dataset.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` or ``length`` is not positive.
    """

    queue: KeyQueue
    keeps_images = False  # which image a key is of
    sought = 1  # keys that it looks for in the queue at once
    remedy = "raise queue_len"  # where it has fewer

    def __init__(
        self,
        temperature: float = 0.2,
        length: int = 65536,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)
        self.length = length

    def attach(self, method: Method) -> None:
        """Make the queue.

        Raises:
            ValueError: It holds fewer keys than are looked for.
        """
        super().attach(method)
        self.queue = KeyQueue(self.length, method.dim, index=self.keeps_images)
        if self.length < self.sought:
            raise UserValueError(
                f"{self.sought} of a queue of {self.length} keys are looked for; "
                f"{self.remedy}."
            )

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; :func:`~mmssl_ext.models.losses.info_nce`."""
        k = k.repeat(len(q) // len(k), 1)  # M x D
        return info_nce(q, k, self.queue.keys, self.temperature, negatives).mean()

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, one view after the other."""
        return {"keys": method.targets(step, "embedding")}

    def remember(self, found: Features) -> None:
        """Let the targets be negatives from the next step on."""
        self.queue.enqueue(found["keys"])

    @property
    def negatives(self) -> Tensor:  # type: ignore[override]
        """The queue, K x D."""
        return self.queue.keys
