"""Heads that compare queries with their keys and a queue."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..losses import info_nce, queue_consistency


def check_positive(name: str, value: float) -> float:
    """Return a temperature if it is one, else say what to change."""
    if not value > 0:
        raise ValueError(
            f"{name}={value} is not a temperature: it divides the similarities and "
            "must be positive (usual values lie between 0.04 and 1)."
        )
    return value


@MODELS.register_module()
class InstanceHead(BaseModule):
    """InfoNCE against the queue (:func:`~mmssl_ext.models.losses.info_nce`).

    Args:
        temperature: tau_ins; 0.2 in MoCo v2, 0.07 in MoCo v1.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 0.2, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)

    def loss(
        self, q: Tensor, k: Tensor, queue: Tensor, negatives: Tensor | None = None
    ) -> Tensor:
        """Mean loss of N x D queries and keys against a K x D queue, a scalar.

        ``negatives`` (N x D) has one more negative for each query.
        """
        return info_nce(q, k, queue, self.temperature, negatives).mean()


@MODELS.register_module()
class ConsistencyHead(BaseModule):
    """Weighted consistency with the key's profile over the queue.

    The term of CO2 (:func:`~mmssl_ext.models.losses.queue_consistency`), for any method
    that has queries, keys and a queue.

    Args:
        temperature: tau_con.
        weight: alpha, the factor on the term; 0 switches it off.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive or ``weight`` is negative.
    """

    def __init__(
        self, temperature: float, weight: float, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)
        if not weight >= 0:
            raise ValueError(
                f"weight={weight} (alpha) would reward disagreement; set it to 0 to "
                "switch the consistency term off, or to a positive number."
            )
        self.weight = weight

    def loss(self, q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        """Alpha times the mean divergence of N x D queries and keys, a scalar."""
        if self.weight == 0:
            return q.new_zeros(())
        return self.weight * queue_consistency(q, k, queue, self.temperature).mean()


@MODELS.register_module()
class MultiLevelHead(BaseModule):
    """DetCo's twelve losses: three terms at each of L levels (arXiv 2102.04803, eq. 1).

    Args:
        temperature: tau; 0.2 as in MoCo v2.
        level_weights: w_i from the shallowest level to the deepest.
        term_weights: Weights of the terms global, local and cross inside a level.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive, a weight is negative, or there are
            not three terms.
    """

    factors: Tensor

    def __init__(
        self,
        temperature: float = 0.2,
        level_weights: Sequence[float] = (0.1, 0.4, 0.7, 1.0),
        term_weights: Sequence[float] = (1.0, 1.0, 1.0),
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)
        weights = [*level_weights, *term_weights]
        if len(term_weights) != 3 or not all(w >= 0 for w in weights):
            raise ValueError(
                f"level_weights={tuple(level_weights)} must be one weight per level, "
                f"term_weights={tuple(term_weights)} those of global, local and cross, "
                "none of them negative."
            )
        self.level_weights = tuple(level_weights)
        factors = torch.tensor(term_weights)[:, None] * torch.tensor(level_weights)
        self.register_buffer("factors", factors, persistent=False)  # 3 x L

    def loss(self, q: Tensor, k: Tensor, queues: Tensor) -> Tensor:
        """Mean losses over N images, not weighted.

        Args:
            q: Queries, 2 x L x N x D, global before local.
            k: Keys, likewise.
            queues: 2 x L x K x D.

        Returns:
            The losses, 3 x L, of global query and key; of local query and key; of local
            query against the global key and queue.
        """
        (q_global, q_local), (k_global, _) = q, k  # L x N x D
        # The global queues serve two terms: their rows go side by side, all levels at
        # once, so that every queue is read a single time.
        both = info_nce(
            torch.cat([q_global, q_local], 1),
            torch.cat([k_global, k_global], 1),
            queues[0],
            self.temperature,
        )  # L x 2N
        local = info_nce(q_local, k[1], queues[1], self.temperature)  # L x N
        same, cross = both.chunk(2, dim=1)
        return torch.stack([same.mean(1), local.mean(1), cross.mean(1)])

    def weigh(self, losses: Tensor) -> Tensor:
        """Weighted sums over the levels of 3 x L losses, shape 3."""
        return (losses * self.factors).sum(1)
