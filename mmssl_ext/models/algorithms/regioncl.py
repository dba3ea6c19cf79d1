"""RegionCL: contrast between swapped regions, on MoCo v2, DenseCL or SimSiam.

Paper: arXiv 2111.12309 (ECCV 2022).

Swap one rectangle between the images of a batch. A mixed image then shows two images:
the canvas around the rectangle, and the pasted content in it. Each part, pooled from
the one feature map, must find the key of the image that it came from, and the other
part of the same mixed image is one more negative.

    xm[i] = x_q[i], with x_q[perm(i)] inside the rectangle R
    c[i]  = normalise(mlp(mean of f(xm[i]) over the cells outside R))      N x D
    pm[i] = normalise(mlp(mean of f(xm[i]) over the cells inside R))       N x D
    p[i]  = pm[inv(i)]                          the paste whose content is image i
    L_canvas = InfoNCE(c[i], k[i], queue and sg(pm[i]))
    L_paste  = InfoNCE(p[i], k[i], queue and sg(c[inv(i)]))
    L = L_base + (L_canvas + L_paste) / 2

Only the query view is mixed, in a forward pass and with batch statistics of its own;
the queue never sees a region. Mean rather than sum of the two region losses is the
released code's way (what the paper writes is unverified).

Differs from the reference code:
* the rectangle is drawn in cells and reaches every border; there, pixels and pooled
  cells are one cell apart in 87 % of the draws;
* every place of the rectangle is equally likely; there, 64 % lie at the right border,
  and as many at the lower, where they are moved if they would leave the image;
* the pairing is undone by the inverse permutation, and no image of an odd batch is
  pasted into itself;
* one head serves whole images and regions (the second of the reference never exists).

RegionCL-D: its official code was not read; L_base is DenseCL's loss with lambda = 0.5,
as an independent implementation has it. RegionCL-S: no source was found. SimSiam knows
no negatives, so here each region of the mixed first view predicts the second view's
projection of its own image (our reading, unverified).
"""

import math
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..layers import unit
from ..layers.region import RegionSampler, pairing, pool_regions, swap_region
from .base import Features, SSLAlgorithm
from .densecl import DenseCL
from .moco import MoCo
from .simsiam import SimSiam


class RegionContrast(SSLAlgorithm):
    """Mix-in: adds regions to the query's features.

    Args:
        region: ``cells`` and ``stride`` of a
            :class:`~mmssl_ext.models.layers.region.RegionSampler`.
        region_weight: Weight of the region loss; 0 switches it off.
        **kwargs: As for the algorithm that it is mixed into.

    Raises:
        ValueError: ``region_weight`` is negative; a region does not fit the images or
            the feature map.
    """

    def __init__(self, region: dict, region_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not region_weight >= 0:
            raise ValueError(
                f"region_weight={region_weight} would reward confusion; set it to 0 to "
                "switch the region loss off, or to a positive number."
            )
        self.region = RegionSampler(**region)
        self.region_weight = region_weight

    def encode_query(self, *views: Tensor) -> Features:
        """The base's features and those of the swapped regions."""
        query = super().encode_query(*views)
        return query | self.encode_regions(views[0]) if self.region_weight else query

    def encode_regions(self, view: Tensor) -> Features:
        """Swap a region within a view N x 3 x H x W and encode both parts.

        Returns:
            ``canvas`` and ``paste`` by source image, N x D, not normalised; ``order``
            and ``inverse``, the pairing, N each.
        """
        mixed, cells, order = self.swap(view)
        maps = self.backbone(mixed)[-1]  # N x C x h x w
        stride = self.region.stride
        if [stride * size for size in maps.shape[2:]] != list(view.shape[2:]):
            # A power of two, of which the map rounds what is left over up to a cell.
            true = 2 ** math.ceil(math.log2(view.shape[2] / maps.shape[2]))
            raise ValueError(
                f"The backbone turns {view.shape[2]} x {view.shape[3]} pixels into "
                f"{maps.shape[2]} x {maps.shape[3]} cells, which are not {stride} "
                f"pixels wide; set region.stride to {true} and crop to a multiple of "
                "it."
            )
        pooled = torch.cat(pool_regions(maps, cells))  # 2N x C
        canvas, paste = self.neck((pooled[:, :, None, None],))[0].chunk(2)
        inverse = order.argsort()
        paste = paste[inverse]
        return {"canvas": canvas, "paste": paste, "order": order, "inverse": inverse}

    def swap(self, view: Tensor) -> tuple[Tensor, Any, Tensor]:
        """Mixed images, the region in cells, and whose content it holds (N)."""
        cells = self.region.draw(*view.shape[-2:])
        order = pairing(len(view), view.device)
        return swap_region(view, cells.scaled(self.region.stride), order), cells, order

    @torch.no_grad()
    def inspect(self, inputs: list[Tensor]) -> dict[str, Any]:
        """Swapped images.

        Returns:
            ``mixed`` (N x 3 x H x W), ``region`` (top, left, height and width in
            pixels), ``order`` (whose content it holds, N) and ``grid`` (cells of the
            feature map).
        """
        self.check_views(inputs)
        mixed, cells, order = self.swap(inputs[0])
        grid = tuple(self.backbone(mixed)[-1].shape[-2:])
        region = tuple(cells.scaled(self.region.stride))
        return {"mixed": mixed, "region": region, "order": order, "grid": grid}


class QueueRegionContrast(RegionContrast):
    """The region loss against a queue, for MoCo and what is built on it."""

    def contrast(self, query: Features, key: Features) -> dict[str, Tensor]:
        """The base's losses and ``loss_region``."""
        losses = super().contrast(query, key)
        if not self.region_weight:
            return losses
        c, p = (unit(query[name]) for name in ("canvas", "paste"))
        k = key["embedding"]
        loss = self.head.loss(
            torch.cat([c, p]),  # 2N x D
            torch.cat([k, k]),
            self.queue.keys,
            # The other part of the same mixed image, constant.
            torch.cat([p[query["order"]], c[query["inverse"]]]).detach(),
        )
        losses["loss_region"] = self.region_weight * loss
        return losses


@MODELS.register_module()
class RegionCLM(QueueRegionContrast, MoCo):
    """RegionCL-M, on MoCo v2."""


@MODELS.register_module()
class RegionCLD(QueueRegionContrast, DenseCL):
    """RegionCL-D, on DenseCL; regions use the global head and queue."""


@MODELS.register_module()
class RegionCLS(RegionContrast, SimSiam):
    """RegionCL-S, on SimSiam."""

    def contrast(self, query: Features, key: Features) -> dict[str, Tensor]:
        """SimSiam's loss and ``loss_region``, in [-1, 1] times its weight."""
        losses = super().contrast(query, key)
        if self.region_weight:
            target = key["projection"]
            loss = self.head.loss(
                torch.cat([query["canvas"], query["paste"]]),  # 2N x D
                torch.cat([target, target]),
            )
            losses["loss_region"] = self.region_weight * loss
        return losses
