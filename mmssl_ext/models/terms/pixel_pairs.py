"""Pairs of pixels by geometry (PixPro, arXiv 2011.10043, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..layers import pairs
from ..part import is_number
from .maps import MapTerm, cells

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class PixelTerm(MapTerm):
    """Cells of two views are compared where their places in the image are close.

    Args:
        threshold: Diagonals of a cell, the larger of both views', below which two
            cells are a pair.
        **kwargs: As for :class:`~mmssl_ext.models.terms.maps.MapTerm`; a
            ``ConvProjector`` as the neck is the projector.
    """

    name = "pixel"
    shares_neck = True

    def __init__(self, threshold: float = 0.7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not is_number(threshold) or threshold <= 0:
            raise UserValueError(
                f"threshold={threshold!r} of the term {type(self).__name__} must be "
                "positive: how far apart, in diagonals of a cell, a pair may be."
            )
        self.threshold = threshold

    def pair(self, y: Tensor, k: Tensor, near: Tensor) -> Tensor:
        """Mean loss of a pair of views, a scalar."""
        raise NotImplementedError

    def forward(self, method: Method, step: Step) -> Tensor:
        """The loss; ``matched`` in the log is the share of images that have pairs."""
        boxes, losses, matched = self.boxes(step), [], []
        online = {a: step.online[a][self.key] for a in method.query_views}
        seen = {a: cells(self.seen(maps)) for a, maps in online.items()}
        for a, b in method.pairs:
            target = step.target[b][self.key].detach()
            h, w = online[a].shape[-2:]
            size = target.shape[-2], target.shape[-1]
            near = pairs(boxes[:, a], boxes[:, b], h, w, self.threshold, size)
            losses.append(self.pair(seen[a], cells(target), near))
            matched.append(near.flatten(1).any(1).float().mean())
        step.figures["matched"] = torch.stack(matched).mean()
        return method.over_pairs(losses)
