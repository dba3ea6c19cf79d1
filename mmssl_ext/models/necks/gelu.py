"""DINO's projection head, up to its last layer (arXiv 2104.14294)."""

import itertools
from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import pooled
from mmssl_ext.registry import MODELS

from ..part import is_count


@MODELS.register_module()
class GELUNeck(BaseModule):
    """Linear layers with GELU between them; the last has neither norm nor GELU.

    Args:
        in_channels: Channels of the map, or of the vector.
        hid_channels: Hidden width.
        out_channels: Size D of the embedding, the bottleneck.
        num_layers: Linear layers.
        norm: BatchNorm before every GELU, as some do for small networks.
        init_cfg: As for every mmengine module; by default the official code's, a normal
            distribution of deviation 0.02, truncated, and biases of 0.

    Raises:
        ValueError: A size is no whole number.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int = 2048,
        out_channels: int = 256,
        num_layers: int = 3,
        norm: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = {"type": "TruncNormal", "layer": "Linear", "std": 0.02}
        super().__init__(init_cfg)
        sizes = {"hid_channels": hid_channels, "out_channels": out_channels}
        for key, size in {**sizes, "num_layers": num_layers}.items():
            if not is_count(size):
                raise UserValueError(
                    f"{key}={size!r} of a GELUNeck must be a whole number above 0."
                )
        widths = [in_channels, *[hid_channels] * (num_layers - 1)]
        layers: list[nn.Module] = []
        for size, width in itertools.pairwise(widths):
            layers.append(nn.Linear(size, width))
            layers += [nn.BatchNorm1d(width)] if norm else []
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], out_channels))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Of the last map, N x C x h x w, or vectors N x C: (N x D,)."""
        return (self.mlp(pooled(maps)),)
