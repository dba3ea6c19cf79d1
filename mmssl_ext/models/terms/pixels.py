"""The terms of PixPro (arXiv 2011.10043): pixels by their place, and whole images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..losses import cosines, pair_contrast, pair_cosine, propagate
from ..necks import ConvProjector
from ..part import check_positive, is_number
from .maps import MapTerm, cells
from .pixel_pairs import PixelTerm

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class PixelConsistency(PixelTerm):
    """A cell, smoothed over similar cells of its view, predicts the other view's cells.

    Pairs of cells count alike within an image, and images in the batch, of which those
    without a pair add 0, as in the authors' code.

    Args:
        gamma: Sharpness of the propagation, at least 1.
        layers: Convolutions of the transform v: 0 (none), 1, or 2.
        **kwargs: As for :class:`~mmssl_ext.models.terms.pixel_pairs.PixelTerm`.
    """

    def __init__(self, gamma: float = 2.0, layers: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not is_number(gamma) or gamma < 1:
            raise UserValueError(f"gamma={gamma!r} of PixelConsistency must be >= 1.")
        if layers not in (0, 1, 2):
            raise UserValueError(
                f"layers={layers!r} of PixelConsistency must be 0, 1 or 2."
            )
        self.gamma, self.layers = gamma, layers

    def attach(self, method: Method) -> None:
        """Make v, which the target has not got."""
        super().attach(method)
        dim = self.dim
        self.transform: nn.Module = nn.Identity()
        if self.layers == 1:
            self.transform = nn.Conv2d(dim, dim, 1)
        elif self.layers == 2:
            self.transform = ConvProjector(dim, dim, dim)

    def seen(self, maps: Tensor) -> Tensor:
        """y, N x C x h x w."""
        v: Any = self.transform
        values = v.project(maps) if self.layers == 2 else v(maps)
        y = propagate(cells(maps), cells(values), self.gamma)
        return y.mT.unflatten(2, maps.shape[-2:])

    def pair(self, y: Tensor, k: Tensor, near: Tensor) -> Tensor:
        """-2 mean_n of the mean cosine of the pairs of an image."""
        return -2 * pair_cosine(y, k, near).mean()

    @torch.no_grad()
    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """See the base; ``propagation`` besides."""
        x = cells(method.encode(method, inputs[method.pairs[0][0]])[self.key])
        weights = cosines(x, x).clamp(min=0).pow(self.gamma)
        return super().inspect(method, inputs) | {"propagation": weights}


@MODELS.register_module()
class PixelContrast(PixelTerm):
    """A cell finds its pairs among all cells of the other view of its image.

    Cells that have a pair count alike within an image, and images in the batch, of
    which those without a pair add 0.

    Args:
        temperature: T.
        **kwargs: As for :class:`PixelConsistency`.
    """

    def __init__(self, temperature: float = 0.3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = check_positive("temperature", temperature)

    def pair(self, y: Tensor, k: Tensor, near: Tensor) -> Tensor:
        """Mean over the images."""
        return pair_contrast(y, k, near, self.temperature).mean()


@MODELS.register_module()
class PooledRegression(MapTerm):
    """PixPro's instance branch: means over the cells of heads of its own.

    ``-2 cos(mean pred(g(F)), mean g'(F'))``, pooled before it is normalised.

    Args:
        pred_channels: Hidden width of the predictor; None is that of the projector.
        **kwargs: As for :class:`MapTerm`.
    """

    name = "instance"
    needs_boxes = False

    def __init__(self, pred_channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pred_channels = pred_channels

    def attach(self, method: Method) -> None:
        """Make projector and predictor."""
        super().attach(method)
        assert self.head is not None
        hidden = self.pred_channels or self.head.conv1.out_channels
        self.predictor = ConvProjector(self.dim, hidden, self.dim)

    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """Nothing of its own."""
        return {}

    def forward(self, method: Method, step: Step) -> Tensor:
        """The loss."""
        losses = []
        p = {
            a: self.predictor.pool(step.online[a][self.key]) for a in method.query_views
        }
        for a, b in method.pairs:
            z = cells(step.target[b][self.key].detach()).mean(1)  # N x D
            losses.append(-2 * (unit(p[a]) * unit(z)).sum(1).mean())
        return method.over_pairs(losses)
