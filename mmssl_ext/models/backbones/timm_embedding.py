"""A network of timm that returns one vector per image, as timm means it."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import Tensor

from mmssl_ext.errors import UserError
from mmssl_ext.registry import MODELS


@MODELS.register_module()
class TimmEmbedding(BaseModule):
    """What timm computes before its classifier: a teacher's features.

    The class token behind the last norm of a ViT, the mean of a map, or what else the
    network is made for. mmpretrain's ``TIMMBackbone`` returns maps, without the norm.

    Args:
        model_name: Of timm, without the tag of weights.
        init_cfg: ``dict(type="PretrainedBackbone", checkpoint="timm:NAME")``.
        **kwargs: As for ``timm.create_model``.
    """

    def __init__(
        self, model_name: str, init_cfg: dict | None = None, **kwargs: Any
    ) -> None:
        super().__init__(init_cfg)
        try:
            import timm
        except ImportError as error:
            raise UserError(
                f"The network timm:{model_name} needs timm: pip install "
                "'mmssl_ext[timm]'."
            ) from error
        net: Any = timm.create_model(model_name, num_classes=0, **kwargs)
        self.timm_model = net
        self.feat_dim = int(getattr(net, "head_hidden_size", None) or net.num_features)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Features, N x C, of N x 3 x H x W images."""
        return (self.timm_model(images),)
