"""Uniformity: embeddings spread over the whole sphere, as a term for any method.

Paper: arXiv 2005.10242 (ICML 2020), its second loss; the first, alignment, is what
every comparison does already.

    z = normalise(g(f(x)))                               N x D, of all ranks, gradient
    L = log mean_{i != j} exp(-t |z_i - z_j|^2)          in [-4 t, 0], 0: a single point
"""

import math
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.models.algorithms import Method, Step
from mmssl_ext.models.layers import gather_rows, unit
from mmssl_ext.models.terms import Term
from mmssl_ext.registry import MODELS


def uniformity(z: Tensor, t: float) -> Tensor:
    """The loss of N unit rows, N x D, a scalar; N is 2 or more."""
    n = len(z)
    with torch.autocast(z.device.type, enabled=False):
        logits = 2 * t * (z @ z.T - 1)  # -t |z_i - z_j|^2, N x N
    logits = logits.fill_diagonal_(-torch.inf)  # no embedding is its own neighbour
    return logits.flatten().logsumexp(0) - math.log(n * (n - 1))


@MODELS.register_module()
class Uniformity(Term):
    """Embeddings of different images push each other away.

    Args:
        t: How fast that fades with the distance; the paper's is 2.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.
    """

    name = "uniformity"

    def __init__(
        self, t: float = 2.0, weight: Any = None, init_cfg: dict | None = None
    ) -> None:
        super().__init__(weight, init_cfg)
        self.t = t

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the query views."""
        rows = (unit(step.online[a]["projection"]) for a in method.query_views)
        losses = [uniformity(gather_rows(z), self.t) for z in rows]
        return torch.stack(losses).mean()
