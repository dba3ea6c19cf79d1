"""DetCo's projection heads: one per level for whole images, one for patch sets."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS


@MODELS.register_module()
class MultiLevelNeck(BaseModule):
    """Eight MLPs on the globally pooled maps of four stages (arXiv 2102.04803).

    Each is Linear, ReLU, Linear with biases and without BatchNorm, as in MoCo v2. A
    local head takes the pooled vectors of all patches of an image side by side.

    Args:
        in_channels: Channels C_i of the stages, from the shallowest to the deepest.
        out_channels: Size D of the embeddings.
        hid_channels: Hidden width of both heads of a level: one for all or one per
            level. None is C_i; the paper's text does not say (unverified).
        num_patches: Patches P per image.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: There are not as many hidden widths as levels, or the maps are not
            those of ``in_channels``.
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (256, 512, 1024, 2048),
        out_channels: int = 128,
        hid_channels: int | Sequence[int] | None = None,
        num_patches: int = 9,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if hid_channels is None:
            hid_channels = in_channels
        elif isinstance(hid_channels, int):
            hid_channels = [hid_channels] * len(in_channels)
        if len(hid_channels) != len(in_channels):
            raise UserValueError(
                f"hid_channels={tuple(hid_channels)} has not one width for each of the "
                f"{len(in_channels)} levels of in_channels={tuple(in_channels)}."
            )
        self.in_channels = tuple(in_channels)
        self.num_patches = num_patches

        def heads(factor: int) -> nn.ModuleList:
            return nn.ModuleList(
                nn.Sequential(
                    nn.Linear(factor * channels, hidden),
                    nn.ReLU(inplace=True),
                    nn.Linear(hidden, out_channels),
                )
                for channels, hidden in zip(in_channels, hid_channels, strict=True)
            )

        self.global_heads = heads(1)
        self.local_heads = heads(num_patches)

    def forward(
        self, maps: Sequence[Tensor], patch_maps: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Project every level.

        Args:
            maps: L maps of whole images, N x C_i x h x w.
            patch_maps: L maps of their patches, P*N x C_i x h x w; row j*N + n is
                patch j of image n.

        Returns:
            N x L x D, or with patches N x 2L x D, the global levels before the local.
        """
        vectors = list(self._pool(maps))  # N x C_i
        rows = [head(v) for head, v in zip(self.global_heads, vectors, strict=True)]
        if patch_maps is not None:
            for head, v in zip(self.local_heads, self._pool(patch_maps), strict=True):
                sets = v.unflatten(0, (self.num_patches, -1)).transpose(0, 1)
                rows.append(head(sets.flatten(1)))  # N x P*C_i
        return torch.stack(rows, dim=1)

    def _pool(self, maps: Sequence[Tensor]) -> list[Tensor]:
        channels = tuple(m.shape[1] for m in maps)
        if channels != self.in_channels:
            raise UserValueError(
                f"The backbone returns stages with {channels} channels but the neck "
                f"has heads for {self.in_channels}; set backbone.out_indices and "
                "neck.in_channels to the same stages."
            )
        return [m.flatten(2).mean(2) for m in maps]
