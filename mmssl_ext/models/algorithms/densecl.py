"""DenseCL: dense contrastive learning.

Paper: arXiv 2011.09157 (CVPR 2021), on MoCo v2.

A second head keeps the feature map. Each of its cells must pick, out of a queue of
other images' cells, that cell of the other view which looks most like it. The match is
found in backbone features, so no geometry is needed.

    F_q, F_k                                    N x C x S x S, backbone maps
    q, k     = normalise(mlp(mean F))           N x D
    r, t     = normalise(mlp_dense(F))          N x S^2 x D, a vector per cell
    tbar     = normalise(mean_cells mlp_dense(F_k))         N x D, goes to queue 2
    c[n, a]  = argmax_b cos(F_q[n, a], F_k[n, b])           N x S^2
    L_global = mean_n    InfoNCE(q_n, k_n, queue)
    L_dense  = mean_n,a  InfoNCE(r_na, t_n,c[n,a], queue 2)
    L = (1 - lambda) L_global + lambda L_dense,  lambda = 0.5, first 0

Differs from the reference code:
* lambda is a schedule in the configs: the paper starts with 0 (10,000 iterations, the
  author's word), the released configs left that out;
* with ``num_grid`` the matching uses maps pooled like the dense features; the reference
  matches on the unpooled maps and then takes wrong cells or none;
* whatever is encoded from a shuffled batch is put in order again, all of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmssl_ext.registry import MODELS

from ..part import shares
from ..schedules import schedule
from .moco import MoCo


@MODELS.register_module()
class DenseCL(MoCo):
    """MoCo plus a dense branch.

    Args:
        loss_lambda: Weight of the dense loss; the global one has 1 - lambda. A number
            or a schedule: ``dict(kind="step", start=0, end=0.5, until=10000)``.
        dense: Options of the term :class:`~mmssl_ext.models.terms.Dense`.
        terms: More terms.
        weights: Of more terms.
        **kwargs: As for :class:`MoCo`; ``neck`` is mmpretrain's ``DenseCLNeck``, whose
            ``num_grid`` sets S (None: that of the feature map).

    Raises:
        ValueError: ``loss_lambda`` is outside [0, 1].
    """

    def __init__(
        self,
        loss_lambda: Any = 0.5,
        dense: dict | None = None,
        terms: Sequence[dict] = (),
        weights: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        share = schedule(loss_lambda, "loss_lambda", 0, 1)  # 0.5 is the paper's
        super().__init__(
            terms=[{"type": "Dense", **(dense or {})}, *terms],
            weights=shares(type(self).__name__, weights, "dense", share),
            **kwargs,
        )
