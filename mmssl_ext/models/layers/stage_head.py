"""SCFS's head of a stage (arXiv 2212.06486)."""

from __future__ import annotations

from torch import Tensor, nn

from .unit import unit


class StageHead(nn.Module):
    """A residual bottleneck on a map, its mean, and an MLP to unit rows.

        map -> relu(map + BN(1x1(relu(BN(3x3(relu(BN(1x1(map)))))))) -> mean over cells
        -> Linear, BN, ReLU, Linear, BN -> unit row

    Args:
        channels: C of the map.
        mid_channels: Of the bottleneck.
        hid_channels: Hidden width of the MLP.
        out_channels: Size D of a row.
    """

    def __init__(
        self, channels: int, mid_channels: int, hid_channels: int, out_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, mid_channels, 1, bias=False)
        self.rest = nn.Sequential(
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, mid_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.mlp = nn.Sequential(
            nn.Linear(channels, hid_channels),
            nn.BatchNorm1d(hid_channels),
            nn.ReLU(inplace=True),
            nn.Linear(hid_channels, out_channels),
            nn.BatchNorm1d(out_channels),
        )

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """Unit rows of maps.

        Args:
            maps: F, N x C x h x w.
            weights: A, M x N x h x w: the maps are weighted in M ways, cell by cell.

        Returns:
            N x D, or with weights MN x D, those of the first way first.
        """
        hidden = self.conv1(maps)
        if weights is not None:
            # The convolution has no bias, so that conv1(A F) = A conv1(F).
            hidden, maps = (
                (weights[:, :, None] * x).flatten(0, 1) for x in (hidden, maps)
            )
        cells = (maps + self.rest(hidden)).relu()
        return unit(self.mlp(cells.flatten(2).mean(2)))
