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

from torch import Tensor

from mmssl_ext.registry import MODELS

from ..layers import unit
from .base import Features, SSLAlgorithm


@MODELS.register_module()
class SimSiam(SSLAlgorithm):
    """Simple siamese learning.

    Args:
        **kwargs: As for the base; ``head`` is mmpretrain's ``LatentPredictHead``, which
            owns the predictor.

    Raises:
        ValueError: Sizes of neck and backbone differ.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check_sizes()

    def loss(self, inputs: list[Tensor], data_samples: Any = None) -> dict[str, Tensor]:
        """Losses of one batch.

        Args:
            inputs: Two views of N images, N x 3 x H x W each.
            data_samples: Unused; the images need no annotation.

        Returns:
            ``loss_instance`` in [-1, 1] and the terms of the method, scalars.
        """
        self.check_views(inputs)
        query, key = self.encode_query(inputs[0]), self.encode(inputs[1])
        losses = self.contrast(query, key)
        self.last_embeddings = {
            name: unit(view["projection"].detach())
            for name, view in (("query", query), ("key", key))
        }
        return losses

    def encode(self, view: Tensor) -> Features:
        """``projection``: z of a view, N x D."""
        return {"projection": self.neck(self.backbone(view))[0]}

    def encode_query(self, *views: Tensor) -> Features:
        """Features of the first view; a method adds what it needs."""
        return self.encode(*views)

    def contrast(self, query: Features, key: Features) -> dict[str, Tensor]:
        """The symmetric loss of both views."""
        first, second = query["projection"], key["projection"]
        loss = self.head.loss(first, second) + self.head.loss(second, first)
        return {"loss_instance": loss / 2}
