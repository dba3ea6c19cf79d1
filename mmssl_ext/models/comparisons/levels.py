"""DetCo's twelve losses: three terms at each of L levels (arXiv 2102.04803)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import info_nce
from ..memory import KeyQueue
from ..part import Features
from .queue import QueueSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module(name=["MultiLevelSoftmax", "MultiLevelHead"])
class MultiLevelSoftmax(QueueSoftmax):
    """InfoNCE at several levels, of images and of sets of patches (equation 1).

    It reads ``levels`` of the features (N x 2L x D unit rows, global before local).

    Args:
        temperature: tau; 0.2 as in MoCo v2.
        length: Keys K of each of the 2L queues.
        level_weights: w_i from the shallowest level to the deepest.
        term_weights: Weights of the terms global, local and cross inside a level.
        init_cfg: As for every mmengine module.

    Attributes:
        queue: All queues, 2L x K x D, the global levels before the local.

    Raises:
        ValueError: ``temperature`` is not positive, a weight is negative, or there are
            not three terms.
    """

    names = ("global", "local", "cross")
    factors: Tensor

    def __init__(
        self,
        temperature: float = 0.2,
        length: int = 65536,
        level_weights: Sequence[float] = (0.1, 0.4, 0.7, 1.0),
        term_weights: Sequence[float] = (1.0, 1.0, 1.0),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(temperature, length, init_cfg)
        weights = [*level_weights, *term_weights]
        if len(term_weights) != 3 or not all(w >= 0 for w in weights):
            raise UserValueError(
                f"level_weights={tuple(level_weights)} must be one weight per level, "
                f"term_weights={tuple(term_weights)} those of global, local and cross, "
                "none of them negative."
            )
        self.level_weights = tuple(level_weights)
        factors = torch.tensor(term_weights)[:, None] * torch.tensor(level_weights)
        self.register_buffer("factors", factors, persistent=False)  # 3 x L

    def attach(self, method: Method) -> None:
        """Make the queues.

        Raises:
            ValueError: The method has no levels.
        """
        if not hasattr(method, "num_levels"):
            raise UserValueError(
                f"MultiLevelSoftmax compares levels, which {type(method).__name__} has "
                "not got; take QueueSoftmax, or the method DetCo."
            )
        groups = 2 * len(self.level_weights)
        self.queue = KeyQueue(self.length, method.dim, groups)

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """Weighted sums over the levels of the terms global, local and cross."""
        ((a, b),) = method.pairs
        losses = self.losses(
            self._by_level(step.online[a]["levels"]),
            self._by_level(step.target[b]["levels"]),
        )  # 3 x L
        # The deepest global loss is that of MoCo.
        step.figures["raw_instance"] = losses[0, -1].detach()
        terms = (losses * self.factors).sum(1).unbind()
        return dict(zip(self.names, terms, strict=True))

    def losses(self, q: Tensor, k: Tensor) -> Tensor:
        """Mean losses over N images, not weighted.

        Args:
            q: Queries, 2 x L x N x D, global before local.
            k: Keys, likewise.

        Returns:
            The losses, 3 x L, of global query and key; of local query and key; of local
            query against the global key and queue.
        """
        queues = self.queue.keys.unflatten(0, (2, -1))  # 2 x L x K x D
        (q_global, q_local), (k_global, k_local) = q, k  # L x N x D
        # The global queues serve two terms: their rows go side by side, all levels at
        # once, so that every queue is read a single time.
        both = info_nce(
            torch.cat([q_global, q_local], 1),
            torch.cat([k_global, k_global], 1),
            queues[0],
            self.temperature,
        )  # L x 2N
        local = info_nce(q_local, k_local, queues[1], self.temperature)  # L x N
        same, cross = both.chunk(2, dim=1)
        return torch.stack([same.mean(1), local.mean(1), cross.mean(1)])

    def collect(self, method: Method, step: Step) -> Features:
        """The keys of all levels, N x 2L x D."""
        return {"keys": method.targets(step, "levels")}

    @property
    def negatives(self) -> Tensor:  # type: ignore[override]
        """The queue of the deepest global level, K x D."""
        return self.queue.keys[len(self.level_weights) - 1]

    @staticmethod
    def _by_level(levels: Tensor) -> Tensor:
        """N x 2L x D as 2 x L x N x D."""
        return levels.transpose(0, 1).unflatten(0, (2, -1))
