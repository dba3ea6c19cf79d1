"""Regularisers of the similarities in a batch, inspired by XMoCo (arXiv 2206.04676).

Only the abstract could be read: the similarity of any two images should survive the
transformations of the views, and negatives should be equally similar. The rest is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..layers import gather_rows
from ..losses import cross_divergence, cross_squares, cross_uniformity
from ..part import check_positive, one_of
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class OverBatch(Term):
    """A term on the similarities of queries to the targets of the batch of all ranks.

    Over all pairs of views; targets get no gradient. Of a batch of one image it is 0.
    """

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over images and pairs, a scalar."""
        losses = []
        for a, b in method.pairs:
            q, k = step.online[a]["embedding"], step.target[b]["embedding"].detach()
            own = torch.arange(len(q), device=q.device) + get_rank() * len(q)
            with torch.autocast(q.device.type, enabled=False):
                keys = gather_rows(k)  # B x D
                if len(keys) < 2:
                    losses.append(q.sum() * 0)
                    continue
                losses.append(self.compare(q, k, keys, own).mean())
        return method.over_pairs(losses)

    def compare(self, q: Tensor, k: Tensor, keys: Tensor, own: Tensor) -> Tensor:
        """Loss of each image, N, whose target k, N x D, is row ``own`` of B keys."""
        raise NotImplementedError


@MODELS.register_module()
class CrossConsistency(OverBatch):
    """Two images should be as similar when their views are exchanged.

    ``S_ij = q_i . k_j`` against ``S_ji = q_j . k_i``, which the same two images have:
    by squares or by the divergence of both profiles. Views must come from the same
    distribution. Equal embeddings would be best of all: the base must prevent that.

    Args:
        form: ``squares``, of the order of 2 / D at first, or ``divergence``.
        temperature: T of the divergence.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: There is no such form, or ``temperature`` is not positive.
    """

    name = "cross_consistency"

    def __init__(
        self,
        form: str = "squares",
        temperature: float = 0.2,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.form = one_of("form", form, ("squares", "divergence"))
        self.temperature = check_positive("temperature", temperature)

    def compare(self, q: Tensor, k: Tensor, keys: Tensor, own: Tensor) -> Tensor:
        """See :class:`OverBatch`."""
        there, back = q @ keys.T, k @ gather_rows(q).T  # N x B each
        if self.form == "squares":
            return cross_squares(there, back)
        return cross_divergence(there, back, own, self.temperature)


@MODELS.register_module()
class CrossUniformity(OverBatch):
    """A query should be equally similar to the targets of all other images.

    :func:`~mmssl_ext.models.losses.cross_uniformity`. That removes neighbours, the
    opposite of what ASCL or CO2 are for: keep its weight small.

    Args:
        temperature: T.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    name = "cross_uniformity"

    def __init__(
        self,
        temperature: float = 0.2,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, q: Tensor, k: Tensor, keys: Tensor, own: Tensor) -> Tensor:
        """See :class:`OverBatch`."""
        return cross_uniformity(q @ keys.T, own, self.temperature)
