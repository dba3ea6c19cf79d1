"""A projection head that keeps the map."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.registry import MODELS


@MODELS.register_module()
class ConvProjector(BaseModule):
    """Two convolutions of 1 x 1 with biases, BatchNorm and ReLU between them.

    Args:
        in_channels: Channels C of the map.
        hid_channels: Hidden width.
        out_channels: D.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        out_channels: int,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.conv1 = nn.Conv2d(in_channels, hid_channels, 1)
        self.bn1 = nn.BatchNorm2d(hid_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(hid_channels, out_channels, 1)

    def project(self, maps: Tensor) -> Tensor:
        """A map N x C x h x w, cell by cell: N x D x h x w."""
        return self.conv2(self.relu(self.bn1(self.conv1(maps))))

    def pool(self, maps: Tensor) -> Tensor:
        """The mean of the projected cells, N x D, whose last layer sees one cell."""
        hidden = self.relu(self.bn1(self.conv1(maps)))
        return self.conv2(hidden.mean((2, 3), keepdim=True)).flatten(1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of the last map: the mean of its projected cells, N x D, and these."""
        cells = self.project(maps[-1])
        return cells.mean((2, 3)), cells
