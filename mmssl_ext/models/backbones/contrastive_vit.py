"""The ViT of MoCo v3 (arXiv 2104.02057), as contrastive methods train it."""

from __future__ import annotations

from typing import Any

from mmpretrain.models.selfsup.mocov3 import MoCoV3ViT

from mmssl_ext.registry import MODELS


@MODELS.register_module()
class ContrastiveViT(MoCoV3ViT):
    """mmpretrain's ``MoCoV3ViT``, whose positions are fixed from the beginning.

    There they are frozen when the network is initialised, after an optimizer and
    DistributedDataParallel have counted them in.

    Args:
        patch_size: Side of a patch in pixels.
        **kwargs: As for ``MoCoV3ViT``: ``arch``, ``img_size``, ``out_type`` ...
    """

    def __init__(self, patch_size: int = 16, **kwargs: Any) -> None:
        super().__init__(patch_size=patch_size, **kwargs)
        self.pos_embed.requires_grad = False
