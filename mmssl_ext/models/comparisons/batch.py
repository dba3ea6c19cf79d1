"""Softmax over the batch of all ranks (SimCLR, arXiv 2002.05709)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from mmengine.dist import get_rank
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import gather_rows
from ..part import check_positive
from .base import Comparison

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class BatchSoftmax(Comparison):
    """Each view must pick its image's other view out of the batch of all ranks.

    Where the target is the network itself, with gradient, all views but the own are
    candidates (NT-Xent, equation 1). Where it is another network, the candidates are
    the targets of the other view, as in MoCo v3.

    Args:
        temperature: T; 0.1 on ImageNet and 0.5 on CIFAR-10 in SimCLR.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    def __init__(self, temperature: float = 0.1, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)

    def attach(self, method: Method) -> None:
        """Look whether the views can be those of NT-Xent.

        Raises:
            ValueError: They are not two views in both directions.
        """
        super().attach(method)
        views = {view for pair in method.pairs for view in pair}
        if method.target.is_trained and (len(views), len(method.pairs)) != (2, 2):
            raise UserValueError(
                f"pairs={method.pairs}: where the network is its own target, "
                "BatchSoftmax compares two views in both directions; set pairs to "
                "((0, 1), (1, 0))."
            )

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """NT-Xent of both views, or the losses of the pairs."""
        if not method.target.is_trained:
            return super().forward(method, step)
        first, second = (step.online[a]["embedding"] for a, _ in method.pairs)
        loss = self.nt_xent(first, second)
        # The mean of the two directions, which are as many rows each.
        return {"instance": method.over_pairs([loss, loss])}

    def nt_xent(self, first: Tensor, second: Tensor) -> Tensor:
        """Mean loss of this rank's 2N views, N x D unit rows each (equation 1)."""
        rows = torch.cat([first, second])  # 2N x D
        everyone = torch.cat([gather_rows(first), gather_rows(second)])  # 2WN x D
        own = _own_rows(len(first), len(everyone) // 2, rows.device)  # 2N
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows @ everyone.T / self.temperature  # 2N x 2WN
        # No view is compared with itself.
        logits = logits.scatter(1, own[:, None], -torch.inf)
        return cross_entropy(logits, own.roll(len(first)))

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; the other targets of the batch are negatives."""
        everyone = gather_rows(k)  # WN x D
        own = torch.arange(len(k), device=k.device) + get_rank() * len(k)
        with torch.autocast(q.device.type, enabled=False):
            logits = q @ everyone.T / self.temperature  # M x WN
            if negatives is not None:
                extra = (q * negatives).sum(1, keepdim=True) / self.temperature
                logits = torch.cat([logits, extra], 1)
        return cross_entropy(logits, own.repeat(len(q) // len(k)))


def _own_rows(count: int, everyone: int, device: torch.device) -> Tensor:
    """Where this rank's rows of both views stand among those of all, 2N."""
    first = torch.arange(count, device=device) + get_rank() * count
    return torch.cat([first, first + everyone])
