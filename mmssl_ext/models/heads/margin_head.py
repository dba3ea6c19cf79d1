"""The head of InterCLR's inter-image branch."""

from mmengine.model import BaseModule
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..losses import margin_info_nce
from ..memory import Negatives
from .queue_heads import check_positive


@MODELS.register_module()
class MarginHead(BaseModule):
    """InfoNCE with a cosine margin (:func:`~mmssl_ext.models.losses.margin_info_nce`).

    Args:
        temperature: tau.
        margin: m_cos, subtracted from the positive's cosine. Below 0 the boundary
            between positives and negatives is less strict, which the paper found to
            be right for noisy positives; above 0 it is stricter.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive or ``margin`` is outside [-2, 2],
            the range of a difference of cosines.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        margin: float = -0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.temperature = check_positive("temperature", temperature)
        if not -2 <= margin <= 2:
            raise ValueError(
                f"margin={margin} is subtracted from a cosine and must lie in [-2, 2]; "
                "the paper's is -0.5."
            )
        self.margin = margin

    def loss(self, q: Tensor, positives: Tensor, negatives: Negatives) -> Tensor:
        """Mean loss of N x D queries and positives, a scalar."""
        return margin_info_nce(
            q,
            positives,
            negatives.features,
            negatives.similarity,
            negatives.mask,
            self.temperature,
            self.margin,
        ).mean()
