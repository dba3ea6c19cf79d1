"""A projection head with dropout, as CCOP has it (arXiv 2111.13651)."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import pooled
from mmssl_ext.registry import MODELS

from ..part import is_number


@MODELS.register_module()
class DropoutNeck(BaseModule):
    """Linear, dropout, ReLU, linear.

    Args:
        in_channels: Channels of the map.
        hid_channels: Hidden width.
        out_channels: Size D of the embedding.
        dropout: Chance of a hidden value to be 0 in training.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``dropout`` is no chance.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        out_channels: int,
        dropout: float = 0.1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise UserValueError(
                f"dropout={dropout!r} is the chance that a value is set to 0; set it "
                "from 0 to below 1."
            )
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hid_channels),
            nn.Dropout(dropout),
            nn.ReLU(inplace=True),
            nn.Linear(hid_channels, out_channels),
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Of the last map, N x C x h x w, or vectors N x C: (N x D,)."""
        return (self.mlp(pooled(maps)),)
