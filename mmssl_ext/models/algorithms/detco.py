"""DetCo: contrast at several levels, between whole images and sets of patches.

Paper: arXiv 2102.04803 (ICCV 2021), on MoCo v2.

Features of every stage, not of the last alone, must tell images apart; and what is
pooled from nine small patches of an image must agree with what is seen in the whole.

    four views of an image: I_q, I_k, and sets of nine patches P_q, P_k
    q^g_i = normalise(mlp^g_i(mean f_i(I_q)))                          N x D
    q^l_i = normalise(mlp^l_i(concat_9 mean f_i(patches of P_q)))      N x D
    k^g_i, k^l_i: the same of I_k and P_k by the momentum encoder      i = res2 .. res5
    L = sum_i w_i [ InfoNCE(q^g_i, k^g_i, queue^g_i)       global
                  + InfoNCE(q^l_i, k^l_i, queue^l_i)       local
                  + InfoNCE(q^l_i, k^g_i, queue^g_i) ]     cross

There is no official pretraining code. From memory or from unofficial code, unverified:
w = (0.1, 0.4, 0.7, 1.0); the hidden width of the heads, here the C_i of the stage. The
RandAugment of the second version is not part of the configs (its strength is unknown).

Differs from the unofficial codes: patches have crops and an order of their own for
each image and set; key patches are shuffled image by image and put in order again; the
key encoder starts as a copy; the queues advance by the batch of all ranks.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import pooled
from mmssl_ext.registry import MODELS

from ..layers import SplitBatchNorm, unit
from ..part import Features
from ..targets.base import View
from .moco import MoCo


@MODELS.register_module()
class DetCo(MoCo):
    """Multi-level contrast of images and patch sets.

    Args:
        **kwargs: As for :class:`MoCo`. ``backbone.out_indices`` names the L levels,
            ``neck`` is a ``MultiLevelNeck`` with a head for each, ``head`` a
            ``MultiLevelSoftmax`` with a weight for each.

    Raises:
        ValueError: Levels, heads and weights differ in number, or views do not fit.
    """

    num_views = 4  # I_q, I_k, P_q, P_k
    plain_views = False  # an image and its patches are one

    def __init__(self, head: dict, **kwargs: Any) -> None:
        super().__init__(head={"type": "MultiLevelSoftmax", **head}, **kwargs)
        if not hasattr(self.compare, "level_weights"):
            raise UserValueError(
                f"{type(self.compare).__name__} knows no levels; set head.type to "
                "MultiLevelSoftmax."
            )
        if self.pairs not in (((0, 1),), ((1, 0),)):
            raise UserValueError(
                f"pairs={self.pairs}: DetCo compares its two views, an image with its "
                "patches each, in one direction; leave pairs out."
            )
        weights = len(self.compare.level_weights)
        levels = len(getattr(self.backbone, "out_indices", self.neck.in_channels))
        if not levels == self.num_levels == weights:
            raise UserValueError(
                f"The backbone returns {levels} levels (out_indices), the neck has "
                f"heads for {self.num_levels} (in_channels) and the head weights for "
                f"{weights} (level_weights); give each the same levels."
            )

    @property
    def num_levels(self) -> int:
        """Levels L."""
        return len(self.neck.in_channels)

    def check_sizes(self, feat_dim: int | None = None) -> int:
        """Size D of the embeddings of all levels."""
        if not hasattr(self.neck, "global_heads"):
            raise UserValueError(
                f"{type(self.neck).__name__} knows no levels; set neck.type to "
                "MultiLevelNeck."
            )
        self.channels = None  # the necks's heads check those of their levels
        return super().check_sizes(feat_dim)

    def check_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Refuse anything but two views of images and two of patch sets."""
        patches = self.neck.num_patches
        if any(len(s) != 3 for s in shapes[:2]) or any(
            len(s) != 4 or s[0] != patches for s in shapes[2:]
        ):
            raise UserValueError(
                f"DetCo takes two views of whole images and two of {patches} patches, "
                f"in this order, but the views of an image are {shapes}; let "
                "CutPatches be the last transform of the third and fourth list of "
                "MakeViews, and its grid squared neck.num_patches."
            )

    def views_of(self, inputs: Sequence[Tensor]) -> Sequence[View]:
        """Images with their patches: (I_q, P_q) and (I_k, P_k)."""
        return list(zip(inputs[:2], inputs[2:], strict=True))

    def encode(self, encoder: Any, view: View) -> Features:
        """Encode images, N x 3 x H x W, and their patches, N x P x 3 x h x w.

        Returns:
            ``levels`` (unit rows, N x 2L x D, global before local) and ``projection``
            (that of the deepest global level, N x D).
        """
        images, patches = view
        self._check_groups(len(images))
        # Patch-major rows keep the patches of an image in one group of SplitBatchNorm.
        rows = torch.cat(patches.unbind(1))  # P*N x 3 x h x w, in channels_last too
        levels = encoder.neck(encoder.backbone(images), encoder.backbone(rows))
        return {"projection": levels[:, self.num_levels - 1], "levels": unit(levels)}

    def embed(self, encoder: Any, view: Tensor) -> Features:
        """Features of the deepest global level."""
        maps = encoder.backbone(view)
        return {"backbone": pooled(maps), "embedding": encoder.neck(maps)[:, -1]}

    @torch.no_grad()
    def inspect(self, inputs: Any, objects: Any = None) -> dict[str, Any]:
        """Agreement of images and patch sets.

        Returns:
            ``cross``, the cosine of each local query and its global key, N x L.
        """
        self.check_views(inputs)
        first, second = self.views_of(inputs)
        query = self.encode(self, first)["levels"]
        key = self.encode(self.target_encoder, second)["levels"]
        cut = self.num_levels
        return {"cross": (query[:, cut:] * key[:, :cut]).sum(2)}

    def _check_groups(self, num_images: int) -> None:
        norm = next(
            (m for m in self.backbone.modules() if isinstance(m, SplitBatchNorm)), None
        )
        if self.training and norm is not None and num_images % norm.num_splits:
            warnings.warn(
                f"The batch of {num_images} images is no multiple of bn_splits="
                f"{norm.num_splits}: patches of an image fall into different groups of "
                "BatchNorm, which weakens its protection. Choose a batch that is.",
                stacklevel=2,
            )
