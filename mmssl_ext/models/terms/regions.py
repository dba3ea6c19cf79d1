"""Contrast between swapped regions (RegionCL, arXiv 2111.12309)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..layers.region import RegionSampler, pairing, pool_regions, swap_region
from ..part import Features
from ..targets.base import View
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class Regions(Term):
    """Each part of a mixed image must find the target of the image it came from.

    Rectangles are swapped within the query view of the first pair, in one more pass of
    the online network. Both parts are compared with the pair's targets as the base
    compares; where that knows negatives, the other part of the same mixed image is one
    more.

    Args:
        cells: Smallest and largest side of the rectangle in cells of the last map.
        stride: Pixels per cell.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A region does not fit the images or the feature map.
    """

    name = "region"

    def __init__(
        self,
        cells: tuple[int, int] = (3, 5),
        stride: int = 32,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.sampler = RegionSampler(cells, stride)

    def attach(self, method: Method) -> None:
        """Refuse methods whose views or comparison do not suit the term."""
        self.check_views(method)
        self.check_pair(method)

    def look(self, method: Method, number: int, view: View) -> Features:
        """Swap a region within the first pair's query view and encode both parts.

        Returns:
            ``canvas`` and ``paste`` by source image, projections, N x D, not
            normalised; ``order`` and ``inverse``, the pairing, N each.
        """
        if number != method.pairs[0][0]:
            return {}
        assert isinstance(view, Tensor)
        mixed, cells, order = self.swap(view)
        maps = method.backbone(mixed)[-1]  # N x C x h x w
        stride = self.sampler.stride
        if maps.ndim != 4 or [stride * s for s in maps.shape[2:]] != [*view.shape[2:]]:
            raise UserValueError(self._misfit(view, maps))
        pooled = torch.cat(pool_regions(maps, cells))  # 2N x C
        canvas, paste = method.neck((pooled[:, :, None, None],))[0].chunk(2)
        inverse = order.argsort()
        paste = paste[inverse]
        return {"canvas": canvas, "paste": paste, "order": order, "inverse": inverse}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean loss of canvas and paste, a scalar."""
        a, b = method.pairs[0]
        query, k = step.online[a], step.target[b]["embedding"].detach()  # N x D
        parts = torch.cat([query["canvas"], query["paste"]])  # 2N x D
        rows = unit(method.compare.predict(parts))
        c, p = rows.detach().chunk(2)
        # The other part of the same mixed image, constant.
        others = torch.cat([p[query["order"]], c[query["inverse"]]])
        return method.compare.pair(rows, k, others)

    def swap(self, view: Tensor) -> tuple[Tensor, Any, Tensor]:
        """Mixed images, the region in cells, and whose content it holds (N)."""
        cells = self.sampler.draw(*view.shape[-2:])
        order = pairing(len(view), view.device)
        return swap_region(view, cells.scaled(self.sampler.stride), order), cells, order

    @torch.no_grad()
    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """Swapped images.

        Returns:
            ``mixed`` (N x 3 x H x W), ``region`` (top, left, height and width in
            pixels), ``order`` (whose content it holds, N) and ``grid`` (cells of the
            feature map).
        """
        mixed, cells, order = self.swap(inputs[method.pairs[0][0]])
        grid = tuple(method.backbone(mixed)[-1].shape[-2:])
        region = tuple(cells.scaled(self.sampler.stride))
        return {"mixed": mixed, "region": region, "order": order, "grid": grid}

    def _misfit(self, view: Tensor, maps: Tensor) -> str:
        if maps.ndim != 4:
            return (
                "The term Regions pools regions of feature maps, but the backbone "
                f"returns {tuple(maps.shape)}; let it return its maps."
            )
        # A power of two, of which the map rounds what is left over up to a cell.
        true = 2 ** math.ceil(math.log2(view.shape[2] / maps.shape[2]))
        return (
            f"The backbone turns {view.shape[2]} x {view.shape[3]} pixels into "
            f"{maps.shape[2]} x {maps.shape[3]} cells, which are not "
            f"{self.sampler.stride} pixels wide; set region.stride to {true} and crop "
            "to a multiple of it."
        )
