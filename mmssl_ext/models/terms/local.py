"""LC-loss: a local contrastive loss at the same places of two views.

Paper: arXiv 2207.04398 (WACV 2023). A term on BYOL, MoCo or SimSiam.

    r = normalise(sample(h(F_1), U_1))       N x M x D, gradient; with a predictor on
    t = normalise(sample(h'(F_2), U_2))      N x M x D, constant      top where the base
    L = mean_n,a  -log e^(r_a.t_a/T) / sum_b e^(r_a.t_b/T)            has one
    L_base + w L, averaged over the pairs of views that meet

U_1 and U_2 are M common points of the image in units of each view, read bilinearly and
normalised after it. Negatives are the other points of the same image.

A reconstruction, inspired by the paper: no code is public, and of the text the abstract
and the introduction alone could be read. They say that the loss is contrastive, of
pixels that are known to correspond by the transforms, and added to an image-level
method. Points, heads, T, w and which points are negatives are choices of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_reduce
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import apart, centre_grid, overlap_grid, sample
from ..losses import across_images, point_contrast
from ..necks import ConvProjector
from ..part import check_positive, is_count, one_of
from .maps import MapTerm

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class LocalContrast(MapTerm):
    """A point must find itself in the other view among other points of its image.

    Points that have a negative count alike within an image, and images that have such
    points among those of all ranks; others are left out of the mean, since without a
    negative the loss is 0 whatever the features are.

    Args:
        temperature: T; None is that of the base, 0.1 where that has none.
        points: Side of the lattice of points in the overlap; ``"cells"`` takes the
            centres of the query's cells that the other view shows.
        negatives: ``"image"``, or ``"batch"``: all points of a GPU's batch, whose
            similarities are (N M)^2.
        exclude_near: Points less than a cell apart in one of the views are no
            negatives, since most of what is read there is the same.
        predictor_channels: Hidden width of the predictor that a base with a predictor
            gets; None is that of the projector.
        **kwargs: As for :class:`~mmssl_ext.models.terms.maps.MapTerm`.

    Raises:
        ValueError: An option is none of these.
    """

    name = "point"

    def __init__(
        self,
        temperature: float | None = None,
        points: Any = 7,
        negatives: str = "image",
        exclude_near: bool = True,
        predictor_channels: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if points != "cells" and not (is_count(points) and points > 1):
            raise UserValueError(
                f"points={points!r} of LocalContrast must be the side of a lattice, 2 "
                "or more, or 'cells'."
            )
        self.across = one_of("negatives", negatives, ("image", "batch")) == "batch"
        self.temperature, self.points = temperature, points
        self.exclude_near, self.predictor_channels = exclude_near, predictor_channels
        self.predictor: ConvProjector | None = None

    def attach(self, method: Method) -> None:
        """Make the projector, and a predictor where the base has one."""
        super().attach(method)
        if self.temperature is None:
            self.temperature = getattr(method.compare, "temperature", 0.1)
        check_positive("temperature", self.temperature)
        if getattr(method.compare, "predictor", None) is not None:
            assert self.head is not None
            hidden = self.predictor_channels or self.head.conv1.out_channels
            self.predictor = ConvProjector(self.dim, hidden, self.dim)
        elif self.predictor_channels is not None:
            raise UserValueError(
                f"{type(method.compare).__name__} has no predictor, so LocalContrast "
                "has none either; leave predictor_channels out."
            )

    def seen(self, maps: Tensor) -> Tensor:
        """An online map as it is compared, N x D x h x w."""
        return maps if self.predictor is None else self.predictor.project(maps)

    def places(
        self, maps: Tensor, boxes_a: Tensor, boxes_b: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """The points in both views as grids, N x M x 1 x 2, and which there are."""
        if self.points != "cells":
            *grids, found = overlap_grid(boxes_a, boxes_b, self.points)
            valid = found[:, None].expand(-1, self.points**2)  # N x M
        else:
            h, w = maps.shape[-2:]
            other, shown = centre_grid(boxes_a, boxes_b, h, w)
            own, _ = centre_grid(boxes_a, boxes_a, h, w)
            grids, valid = [own, other], shown.flatten(1)
        return [grid.flatten(1, 2)[:, :, None] for grid in grids], valid

    def pair(
        self, query: Tensor, target: Tensor, boxes_a: Tensor, boxes_b: Tensor
    ) -> Tensor:
        """Loss of the maps of two views that were cut at boxes, a scalar."""
        grids, valid = self.places(query, boxes_a, boxes_b)
        allowed = valid[:, None] & valid[:, :, None]  # N x M x M
        points = []  # N x M x D
        for maps, grid in zip((query, target), grids, strict=True):
            points.append(sample(maps, grid).squeeze(3).mT)
            if self.exclude_near:
                allowed = allowed & apart(grid[:, :, 0], *maps.shape[-2:])
        if query.shape[-2:].numel() == 1 and not self.across:
            raise UserValueError(
                "LocalContrast tells points of a map apart, which all are one point in "
                "a map of 1 x 1 cell; take larger views (image_size), smaller strides "
                "of the backbone, or negatives='batch'."
            )
        if self.across:
            points = [x.flatten(0, 1)[None] for x in points]
            allowed = across_images(allowed, valid)
        assert self.temperature is not None
        rows = point_contrast(points[0], points[1], allowed, self.temperature)
        losses, counted = (x.view(valid.shape) for x in rows)
        some = counted.sum(1)
        # Images that have such points count alike, on whichever rank they are.
        images = (some > 0).sum().to(losses)
        all_reduce(images, "mean")
        return (losses.sum(1) / some.clamp(min=1)).sum() / images.clamp(min=1e-6)

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the pairs of views."""
        boxes = self.boxes(step)
        queries = {a: self.seen(step.online[a][self.key]) for a in method.query_views}
        losses = []
        for a, b in method.pairs:
            target = step.target[b][self.key].detach()
            losses.append(self.pair(queries[a], target, boxes[:, a], boxes[:, b]))
        return torch.stack(losses).mean()
