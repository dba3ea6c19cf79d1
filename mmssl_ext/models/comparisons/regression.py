"""Regression of the target through a predictor (BYOL, SimSiam): no negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..part import build_part, in_features, out_features
from .base import Comparison

if TYPE_CHECKING:
    from ..algorithms.method import Method


@MODELS.register_module()
class Regression(Comparison):
    """Each prediction must point where its target points.

    ``shift - scale * cos(h(z), z')``: shift 2 and scale 2 are BYOL's squared distance
    of unit vectors (arXiv 2006.07733, equation 2), 0 and 1 SimSiam's negative cosine
    (arXiv 2011.10566, equation 1).

    Args:
        predictor: Config of h, e.g. mmpretrain's ``NonLinearNeck``; None compares the
            projections themselves, which collapse with most targets.
        shift: Value at a right angle.
        scale: Factor on the cosine.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self,
        predictor: dict | None,
        shift: float = 2.0,
        scale: float = 2.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.predictor = (
            None if predictor is None else build_part("predictor", predictor)
        )
        self.shift, self.scale = shift, scale

    def attach(self, method: Method) -> None:
        """Compare the predictor with what it takes and has to predict.

        Raises:
            ValueError: Their sizes differ.
        """
        if self.predictor is None:
            return super().attach(method)
        taken, size = in_features(self.predictor), out_features(self.predictor)
        if taken is not None and taken != method.dim:
            raise UserValueError(
                f"The neck returns {method.dim} features, but the predictor takes "
                f"{taken}; set predictor.in_channels to {method.dim}."
            )
        wanted = method.target.dim or method.dim
        if size is not None and size != wanted:
            raise UserValueError(
                f"The predictor returns {size} features, but what it has to predict "
                f"has {wanted}; set predictor.out_channels to {wanted}."
            )

    def predict(self, projection: Tensor) -> Tensor:
        """h(z)."""
        return projection if self.predictor is None else self.predictor([projection])[0]

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; negatives are not used."""
        cosine = (q * k.repeat(len(q) // len(k), 1)).sum(-1)  # M
        return (self.shift - self.scale * cosine).mean()
