"""Heads that compare queries with their keys and a queue."""

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

    def loss(self, q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        """Mean loss of N x D queries and keys against a K x D queue, a scalar."""
        return info_nce(q, k, queue, self.temperature).mean()


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
