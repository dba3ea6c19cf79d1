"""BYOL: bootstrap your own latent.

Paper: arXiv 2006.07733 (NeurIPS 2020).

The projection of one view, through a predictor, must point where a slow copy of the
network projects the other view. There are no negatives; the predictor, which the copy
has not got, and the copy's slowness keep the embeddings apart.

    z_i = g(f(x_i)),  p_i = h(z_i)                    N x D, gradient
    t_i = g'(f'(x_i))                                 N x D, no gradient
    L   = mean_n [2 - 2 cos(p_1, t_2)] + mean_n [2 - 2 cos(p_2, t_1)]        in [0, 8]
    theta' <- tau theta' + (1 - tau) theta            before the targets are encoded
    tau(k) = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2,  K: all iterations

Differs from the official code (JAX):
* the target moves before the targets of a step are encoded, there after the optimizer's
  step: the same sequence of targets, tau read one iteration later;
* the first update is an exact copy; there the target starts from another seed;
* no linear classifier is trained beside the network; kNN takes its place.

Of the paper itself only the abstract and figures that others quote were read; the
recipe is that of the official code.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class BYOL(Method):
    """Bootstrap your own latent: regression of a momentum target.

    Args:
        predictor: Config of h, mmpretrain's ``NonLinearNeck``.
        momentum: tau, the share of the target that each step keeps; the paper's is a
            cosine schedule up to 1. A number stays.
        pairs: Both directions; ``((0, 1),)`` is BYOL-asym at half of the cost.
        reduce: The pairs' losses are summed.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        predictor: dict,
        momentum: Any = None,
        pairs: Any = ((0, 1), (1, 0)),
        reduce: str = "sum",
        **kwargs: Any,
    ) -> None:
        if momentum is None:
            momentum = {"kind": "cosine", "start": 0.996, "end": 1.0}
        own = choices(
            type(self).__name__,
            kwargs,
            target={"type": "MomentumTarget", "momentum": momentum},
            compare={"type": "Regression", "predictor": predictor},
        )
        super().__init__(pairs=pairs, reduce=reduce, **own)
