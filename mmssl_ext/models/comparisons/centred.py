"""Targets that are centred and sharpened (DINO, arXiv 2104.14294)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..losses import Aims, prototype_aims, prototype_logsumexp
from ..memory import Centre
from ..part import Features, check_positive
from ..schedules import Schedule, schedule
from .prototypes import PrototypeSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class CentredSoftmax(PrototypeSoftmax):
    """A query must see the prototypes as its target does, centred and sharper.

        P = softmax((t W'^T - c) / T')                  K entries, constant
        L = CE(P, softmax(q W^T / T))                   mean over the images

    W, K x D unit rows, are trained prototypes, W' the target network's. The centre c, a
    slow mean of t W'^T over the rows of all ranks, moves after the loss, once for each
    step of the optimizer. Blocks of logits alone exist, never N x K.

    Args:
        num_prototypes: K.
        temperature: T.
        target_temperature: T', below T: a number, or a
            :class:`~mmssl_ext.models.schedules.Schedule`.
        centre_momentum: Share of the old centre that each step keeps.
        frozen_epochs: Epochs at first in which W stays as it is.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    centre: Centre

    def __init__(
        self,
        num_prototypes: int = 65536,
        temperature: float = 0.1,
        target_temperature: Any = 0.04,
        centre_momentum: float = 0.9,
        frozen_epochs: float = 1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_prototypes, temperature, frozen_epochs, init_cfg=init_cfg)
        self.sharpness = read_sharpness(target_temperature, temperature)
        self.schedules = (self.sharpness,)
        self.centre_momentum = centre_momentum

    def attach(self, method: Method) -> None:
        """Make prototypes and centre."""
        super().attach(method)
        self.centre = Centre(self.options[0], momentum=self.centre_momentum)

    def parts(self) -> dict[str, nn.Module]:
        """The prototypes."""
        return {"prototypes": self.prototypes}

    def start(self, training: Any) -> None:
        """Begin to sum up anew in a new run; few images to a step will do."""
        if training.iteration == 0:  # load_from may have brought another run's
            self.usage.read()

    def teacher(self, method: Method) -> Tensor:
        """The target's prototypes, K x D unit rows, constant."""
        copy = getattr(method.target_encoder, "prototypes", self.prototypes)
        return unit(copy.weight.detach())

    def aims(self, method: Method, step: Step, prototypes: Tensor) -> Aims:
        """What all targets make of K x D prototypes, one view after the other."""
        targets = method.targets(step, "embedding")
        sharpness = self.sharpness(method.clock)
        centre, theirs = self.centre.value, self.teacher(method)
        return prototype_aims(targets, theirs, centre, prototypes, sharpness)

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """See :class:`Comparison`; all views and all targets are compared at once."""
        ours = unit(self.prototypes.weight)  # K x D
        aims = self.aims(method, step, ours)
        self.usage.add_sums(aims.first, aims.mass, aims.entropy)
        queries, targets = method.query_views, method.target_views
        x = torch.cat([step.online[a]["embedding"] for a in queries])
        whole = prototype_logsumexp(x, ours, self.temperature)

        def by_view(rows: Tensor, views: list[int]) -> dict[int, Tensor]:
            return dict(zip(views, rows.chunk(len(views)), strict=True))

        q, sums = by_view(x, queries), by_view(whole, queries)
        mu = by_view(aims.mean, targets)
        losses = [
            (sums[a] - (q[a] * mu[b]).sum(1) / self.temperature).mean()
            for a, b in method.pairs
        ]
        return {"instance": method.over_pairs(losses)}

    def collect(self, method: Method, step: Step) -> Features:
        """Sum of the targets' similarities, 1 x K, and their number, 1."""
        t, theirs = method.targets(step, "embedding"), self.teacher(method)
        with torch.autocast(t.device.type, enabled=False):
            total = t.to(theirs.dtype).sum(0) @ theirs.T  # the sum of t W'^T
        return {"total": total[None], "count": total.new_full((1,), len(t))}

    def remember(self, found: Features) -> None:
        """Move the centre."""
        self.centre.follow(found["total"].sum(0), found["count"].sum())


def read_sharpness(value: Any, temperature: float) -> Schedule:
    """Schedule of the targets' temperature, which sharpens.

    Raises:
        ValueError: It is not positive, or not below that of the queries.
    """
    found = schedule(value, "target_temperature")
    for bound in (found.start, found.end):
        check_positive("target_temperature", bound)
        if bound >= temperature:
            raise UserValueError(
                f"target_temperature={bound} must be below temperature={temperature}: "
                "targets that are no sharper than what is to match them become all "
                "equal; 0.04 to 0.07 beside 0.1 are usual."
            )
    return found
