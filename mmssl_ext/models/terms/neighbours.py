"""Neighbours in the batch as targets of a regression (ASCL on BYOL, 2207.11163)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..comparisons import Regression
from ..comparisons.soft import check_neighbours
from ..layers import gather_rows
from ..losses import neighbour_target
from ..part import check_positive
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class Neighbours(Term):
    """Each prediction must point where its target and the target's neighbours point.

    ASCL's form without negatives: neighbours are the other targets of the view in the
    batch of all ranks, and each of them is regressed by its share w of the label
    (:func:`~mmssl_ext.models.losses.neighbour_target`, own target included):

        L = mean_n [ 2 - 2 sum_j w_nj p_n . t_j ],    a regression of the mean target

    The own target is part of it, so that the base's ``instance`` usually weighs 0. The
    mean confidence of the targets goes to the log.

    Args:
        temperature: T of the target's profile of the batch.
        num_neighbours: How many targets share in a label; 0 is the base's own loss.
        hard: Only the nearest ones, all alike; else each by its similarity.
        adaptive: The less, the flatter the profile is.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    name = "neighbours"

    def __init__(
        self,
        temperature: float = 0.05,
        num_neighbours: int = 1,
        hard: bool = False,
        adaptive: bool = True,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.temperature = check_positive("temperature", temperature)
        self.num_neighbours = check_neighbours(num_neighbours)
        self.hard, self.adaptive = hard, adaptive

    def attach(self, method: Method) -> None:
        """Refuse bases that do not regress.

        Raises:
            ValueError: The base has negatives, or levels.
        """
        if not isinstance(method.compare, Regression):
            raise UserValueError(
                "The term Neighbours softens the target of a regression, as in BYOL; "
                f"{type(method).__name__} compares by "
                f"{type(method.compare).__name__}. With a queue, take type='ASCL'."
            )

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean loss of the pairs, a scalar; the confidence goes to the log."""
        losses, confidence = [], []
        for a, b in method.pairs:
            mean, sure = self.soften(step.target[b]["embedding"].detach())
            losses.append(method.compare.pair(step.online[a]["embedding"], mean))
            confidence.append(sure)
        step.figures["confidence"] = torch.cat(confidence).mean()
        return method.over_pairs(losses)

    def soften(self, k: Tensor) -> tuple[Tensor, Tensor]:
        """Mean target under each label, N x D, and their confidence, N.

        Raises:
            ValueError: The batch of all ranks is too small.
        """
        everyone = gather_rows(k)  # WN x D
        others = len(everyone) - 1
        if others < max(2, self.num_neighbours):
            raise UserValueError(
                f"{self.num_neighbours} neighbours cannot be found among the {others} "
                "other images of the batch; raise batch_size, to 64 or more."
            )
        own = torch.arange(len(k), device=k.device) + get_rank() * len(k)
        return neighbour_target(
            k,
            everyone,
            self.temperature,
            self.num_neighbours,
            hard=self.hard,
            adaptive=self.adaptive,
            own=own,
        )
