"""MSF: mean shift for self-supervised learning.

Paper: arXiv 2105.07269 (ICCV 2021).

BYOL moves an image's prediction to the target of its other view. MSF moves it to the
mean of that target's nearest neighbours among the targets of the last steps: one step
of mean shift, which gathers images that look alike. No class or negative is needed; the
little that a random network's neighbours have in common is where it starts from.

    v = normalise(h(g(f(x_strong))))                  N x D, gradient
    u = normalise(g'(f'(x_weak)))                     N x D, no gradient
    M: m x D, the last m targets, u first put into it
    nn(n) = the k rows of M nearest to u_n            u_n itself among them
    L = mean_n 1/k sum_j (2 - 2 v_n.M_j) = mean_n [2 - 2 v_n.mu_n]       in [0, 4]
    theta' <- m theta' + (1 - m) theta                before the targets are encoded

mu_n is the plain mean of the neighbours. k = 1 is BYOL in one direction.

Differs from the official code:
* the bank takes any batch size and lies in half precision where the config says so; of
  the similarities only blocks exist, and distances of v to k rows, not to all m;
* purity of the neighbours, which needs labels, is not logged;
* one device is protected from the leak of BatchNorm by groups of the batch, where the
  shuffle among four GPUs stands there.

The bodies of the papers were not read; the recipe is that of the official code.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class MSF(Method):
    """Mean shift: regression of a momentum target's neighbours.

    Args:
        predictor: Config of h, mmpretrain's ``NonLinearNeck``.
        bank_len: Rows m of the bank; at most half of the dataset's images, or it holds
            images twice.
        topk: Neighbours k.
        bank_dtype: Of the bank, ``float32`` or ``float16``.
        momentum: Share of the target that each step keeps.
        constraint: Further neighbours; see :class:`CMSF`.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        predictor: dict | None,
        bank_len: int = 128_000,
        topk: int = 5,
        bank_dtype: str = "float32",
        momentum: Any = 0.99,
        constraint: dict | None = None,
        **kwargs: Any,
    ) -> None:
        compare = {
            "type": "MeanShift",
            "predictor": predictor,
            "length": bank_len,
            "k": topk,
            "dtype": bank_dtype,
            "constraint": constraint,
        }
        target = {"type": "MomentumTarget", "momentum": momentum}
        name = type(self).__name__
        super().__init__(**choices(name, kwargs, target=target, compare=compare))
