"""Objects of an image, told apart from each other (CCOP, arXiv 2111.13651)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.datasets.transforms.objects import Objects
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import box_iou, mean_of_all
from ..layers.roi import padded, require_objects
from ..part import is_number
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class IntraImage(Term):
    """An object must be nearer to its own box than other objects are (hinge).

    ``max(0, s_ij - s_jj + margin)`` for objects i and j of one image whose boxes in the
    target view hardly overlap; ``s_ij`` is the cosine of object i of the query view and
    the box of object j of the target view. Reads what :class:`ObjectContrast` pooled.
    All such pairs count alike, whatever image and rank they are of.

    Args:
        margin: 0.4 in the paper.
        max_iou: Boxes that overlap less are different objects.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: An option is out of its range.
    """

    name = "intra"
    needs_objects = True

    def __init__(
        self,
        margin: float = 0.4,
        max_iou: float = 0.05,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        if not is_number(margin) or not 0 <= margin <= 2:
            raise UserValueError(
                f"margin={margin!r} is between two cosines; set it from 0 to 2."
            )
        if not is_number(max_iou) or not 0 < max_iou <= 1:
            raise UserValueError(f"max_iou={max_iou!r} must be above 0, and at most 1.")
        self.margin, self.max_iou = margin, max_iou

    def attach(self, method: Method) -> None:
        """Refuse methods without objects' embeddings."""
        if "roi" not in method.terms:
            raise UserValueError(
                "The term IntraImage compares what ObjectContrast pools; put that "
                "among the terms before it."
            )

    def inspect(
        self, method: Method, inputs: list[Tensor], objects: Objects | None = None
    ) -> dict[str, Any]:
        """Nothing beside what :class:`ObjectContrast` shows."""
        return {}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the pairs of all ranks, 0 where there are none."""
        objects = require_objects(step.objects, type(self).__name__)
        losses = []
        for a, b in method.pairs:
            o, k = step.online[a]["objects"], step.target[b]["objects"].detach()
            batch = len(step.online[a]["projection"])
            grids = [padded(x, objects, batch) for x in (o, k, objects.boxes[:, b])]
            taken = padded(
                torch.ones_like(objects.rows, dtype=torch.bool), objects, batch
            )
            o, k, boxes, taken = (x.unflatten(0, (batch, -1)) for x in (*grids, taken))
            with torch.autocast(o.device.type, enabled=False):
                s = o @ k.to(o).transpose(1, 2)  # N x P x P
            apart = box_iou(boxes[:, :, None], boxes[:, None]) < self.max_iou
            apart &= taken[:, :, None] & taken[:, None]
            apart &= ~torch.eye(apart.shape[1], dtype=torch.bool, device=apart.device)
            own = s.diagonal(dim1=1, dim2=2)[:, None]  # of the column
            hinge = (s - own + self.margin).clamp(min=0) * apart
            losses.append(mean_of_all(hinge.sum(), apart.sum()))
        return method.over_pairs(losses)
