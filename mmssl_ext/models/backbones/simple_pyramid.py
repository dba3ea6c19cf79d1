"""The simple feature pyramid of ViTDet (arXiv 2203.16527, section 3)."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.registry import MODELS


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of N x C x h x w."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


@MODELS.register_module()
class SimplePyramid(BaseModule):
    """Four maps out of the last one of a backbone whose stride is 16, as a ViT's.

    Strides 4 and 8 by transposed convolutions, 16 as it is, 32 by the largest of 2 x 2
    cells: what detectors and segmentors take from a ResNet.

    Args:
        backbone: Config of the backbone; its ``init_cfg`` says its weights.
        channels: C of its map, and of all four.
        init_cfg: As for every mmengine module.
    """

    def __init__(
        self, backbone: dict, channels: int, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.backbone: Any = MODELS.build(backbone)
        self.finer = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(channels, channels, 2, 2),
            _ChannelNorm(channels, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(channels, channels, 2, 2),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps of N x C x h x w of N x 3 x H x W images, strides 4, 8, 16 and 32."""
        x = self.backbone(images)[-1]
        coarser = nn.functional.max_pool2d(x, 2)
        return self.finest(x), self.finer(x), x, coarser
