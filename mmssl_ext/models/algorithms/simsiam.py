"""SimSiam: siamese learning without negatives.

Paper: arXiv 2011.10566 (CVPR 2021). Here as the base of RegionCL-S.

Each view's embedding, through a predictor, must point where the other view's points.
Nothing but the stopped gradient keeps the embeddings from collapsing.

    z_1, z_2 = g(f(x_1)), g(f(x_2))             N x D, g: MLP with BatchNorm
    p_i      = h(z_i)                           N x D, h: predictor
    L = -mean_n [ cos(p_1, sg(z_2)) + cos(p_2, sg(z_1)) ] / 2

Differs from the reference code: nothing known. The predictor's learning rate stays
constant (``FixedRateHook`` in the configs), as there.
"""

from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..part import choices
from .method import Method


@MODELS.register_module()
class SimSiam(Method):
    """Simple siamese learning: the network is its own target, without gradient.

    Args:
        predictor: Config of h, mmpretrain's ``NonLinearNeck``.
        head: In its place, as in version 0.1: mmpretrain's ``LatentPredictHead``, of
            which the ``predictor`` is taken.
        pairs: See :class:`Method`.
        **kwargs: As for :class:`Method`.

    Raises:
        ValueError: There is no predictor, or two.
    """

    def __init__(
        self,
        predictor: dict | None = None,
        head: dict | None = None,
        pairs: Any = ((0, 1), (1, 0)),
        **kwargs: Any,
    ) -> None:
        if (predictor is None) == (head is None):
            raise UserValueError("SimSiam needs one predictor: set model.predictor.")
        if head is not None:
            loss = head.get("loss", {"type": "CosineSimilarityLoss"})
            if loss != {"type": "CosineSimilarityLoss"}:
                raise UserValueError(
                    f"SimSiam's loss is the negative cosine, not {loss}; leave "
                    "head.loss out."
                )
            predictor = head.get("predictor")
        own = choices(
            type(self).__name__,
            kwargs,
            target={"type": "StoppedTarget"},
            compare={
                "type": "Regression",
                "predictor": predictor,
                "shift": 0.0,
                "scale": 1.0,
            },
        )
        super().__init__(pairs=pairs, **own)
