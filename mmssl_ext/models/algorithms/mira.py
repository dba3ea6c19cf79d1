"""MIRA: assignment by regularised mutual information.

Paper: arXiv 2211.02284 (NeurIPS 2022).

Views predict to which prototypes a slow copy of the network assigns the two large views
of their image. Of all assignments near the copy's own softmax, that one is taken which
tells most of the images: each image has few prototypes, and all images together have
many. Nothing forces the prototypes to be used evenly.

    s_v = z_v C^T                                     N x M, cosines, gradient
    t_b = z'_b C^T,  b in {0, 1}                      N x M, cosines, no gradient
    W_b = argmin_W  mean_n KL(W_n || softmax(t_b / T_t)) - beta [H(mean W) - mean H(W)]
    L = mean over (v, b), v != b, of mean_n  - sum_m W_b[n,m] log_softmax(s_v / T)[n,m]
    theta' <- m theta' + (1 - m) theta                before the targets are encoded
    m: 0.99 -> 1 and beta: 3/4 -> 2/3 along half a cosine

W is found by a fixed point iteration over the images of all ranks. The copy has the
prototypes C of the network itself; their rows have length one.

Differs from the official code: in logarithms, where nothing over- or underflows; the
first update of the target is an exact copy, as theirs is at the start.

Of the paper only the abstract was read. The objective W minimises is reconstructed from
the official code's iteration and verified by numbers.
"""

from typing import Any

from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class MIRA(Method):
    """Prediction of a momentum target's assignments of most mutual information.

    Args:
        num_prototypes: M.
        temperature: T of the predictions.
        target_temperature: T_t of the targets.
        beta: Weight of the mutual information; the paper's falls along a cosine.
        num_iters: Of the iteration for W.
        momentum: m, the share of the target that each step keeps; likewise.
        frozen_epochs: Epochs in which the prototypes are not trained, at first.
        pairs: Which view predicts which view's assignment.
        **kwargs: As for :class:`Method`.
    """

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        target_temperature: float = 0.225,
        beta: Any = None,
        num_iters: int = 30,
        momentum: Any = None,
        frozen_epochs: float = 1,
        pairs: Any = ((0, 1), (1, 0)),
        **kwargs: Any,
    ) -> None:
        if momentum is None:
            momentum = {"kind": "cosine", "start": 0.99, "end": 1.0}
        if beta is None:
            beta = {"kind": "cosine", "start": 3 / 4, "end": 2 / 3}
        compare = {
            "type": "InformativePrototypes",
            "num_prototypes": num_prototypes,
            "temperature": temperature,
            "target_temperature": target_temperature,
            "beta": beta,
            "num_iters": num_iters,
            "frozen_epochs": frozen_epochs,
        }
        target = {"type": "MomentumTarget", "momentum": momentum}
        own = choices("MIRA", kwargs, target=target, compare=compare)
        super().__init__(pairs=pairs, **own)
