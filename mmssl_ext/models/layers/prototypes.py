"""Prototypes: trained directions that embeddings are assigned to."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mmssl_ext.errors import UserValueError

from ..memory.clock import Clock
from ..part import is_count, is_number
from ..schedules import Schedule
from .unit import unit


class Prototypes(nn.Linear):
    """M prototypes; calling them gives the cosines of embeddings with them, N x M.

    Rows of length one are had in two ways, which train differently. ``in_place``: the
    owner scales the rows by :meth:`normalise` before every step, and the gradient does
    not know of it (SwAV). Else rows are scaled where they are used, with gradient:
    weight normalisation with a gain of 1 (DINO, MIRA).

    Args:
        number: M.
        dim: D.
        in_place: See above.
        frozen_epochs: Epochs at first in which the optimizer leaves them alone: no
            gradient, momentum or decay. A fraction of an epoch counts, too.

    Attributes:
        weight: M x D, trained, in the checkpoint.
        frozen: 1 as long as they are frozen, then 0.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self, number: int, dim: int, in_place: bool = False, frozen_epochs: float = 0
    ) -> None:
        if not is_count(number) or number < 2:
            raise UserValueError(
                f"num_prototypes={number!r} must be a whole number of 2 or more; about "
                "ten times the number of kinds of images is usual."
            )
        if not is_number(frozen_epochs) or frozen_epochs < 0:
            raise UserValueError(
                f"frozen_epochs={frozen_epochs!r} must be a number of epochs, 0 for "
                "prototypes that are trained from the first step on."
            )
        super().__init__(dim, number, bias=False)
        self.in_place = in_place
        self.frozen = Schedule(
            "step", 1, 0, frozen_epochs, "epoch", name="frozen_epochs"
        )

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale the rows to length one, where they are to be so in place."""
        if self.in_place:
            self.weight.copy_(unit(self.weight))

    def forward(self, z: Tensor) -> Tensor:
        """Cosines with unit rows ... x D: ... x M, in fp32 or wider."""
        with torch.autocast(z.device.type, enabled=False):
            # A copy, for the weight may change before the gradient is asked for. M x D
            rows = self.weight.clone() if self.in_place else unit(self.weight)
            dtype = torch.promote_types(z.dtype, torch.float)
            return linear(z.to(dtype), rows.to(dtype))

    def frozen_at(self, iteration: int, clock: Clock) -> list[Tensor]:
        """What the optimizer must leave alone in an iteration."""
        return [self.weight] if self.frozen.at(iteration, clock) else []
