"""Barlow Twins: self-supervised learning via redundancy reduction.

Paper: arXiv 2103.03230 (ICML 2021).

Each feature of one view should vary over the images as the same feature of the other
view does, and as no other feature. A feature that says nothing, or what another says
already, costs; so there is no collapse, without negatives, predictor or second network.

    z, z' = g(f(x)), g(f(x'))                        N x D, of all ranks, gradient
    C_ij  = mean_n u_ni u'_nj                        D x D, u: z with mean 0, variance 1
    L     = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2                (equation 1)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from mmssl_ext.models.algorithms import Method, Step
from mmssl_ext.models.comparisons import Comparison
from mmssl_ext.models.layers import gather_rows
from mmssl_ext.registry import MODELS


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Correlation of each feature with each over N images, D x D; N x D each."""
    with torch.autocast(first.device.type, enabled=False):
        u, v = (_standardised(z) for z in (first, second))
        return u.T @ v / len(u)


def _standardised(z: Tensor) -> Tensor:
    wide = z.to(torch.promote_types(z.dtype, torch.float))
    return batch_norm(wide, None, None, training=True)  # each column by itself


def redundancy(c: Tensor, weight: float) -> Tensor:
    """How far C, D x D, is from the identity; ``weight`` is lambda (equation 1)."""
    diagonal = c.diagonal()
    others = c - diagonal.diag()
    return (1 - diagonal).square().sum() + weight * others.square().sum()


@MODELS.register_module()
class CrossCorrelation(Comparison):
    """The cross-correlation matrix of two views should be the identity.

    Args:
        off_diagonal: lambda.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self, off_diagonal: float = 0.0051, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.off_diagonal = off_diagonal

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """The loss of all images of all ranks."""
        losses = []
        for a, b in method.pairs:
            z, other = step.online[a]["projection"], step.target[b]["projection"]
            c = cross_correlation(gather_rows(z), gather_rows(other))
            losses.append(redundancy(c, self.off_diagonal))
        return {"instance": method.over_pairs(losses)}


@MODELS.register_module()
class BarlowTwins(Method):
    """The network is its own target, with gradient.

    Args:
        off_diagonal: lambda.
        **kwargs: As for :class:`Method`: ``backbone``, ``neck``, ``terms`` ...
    """

    def __init__(self, off_diagonal: float = 0.0051, **kwargs: Any) -> None:
        compare = {"type": "CrossCorrelation", "off_diagonal": off_diagonal}
        super().__init__(target={"type": "OwnTarget"}, compare=compare, **kwargs)
