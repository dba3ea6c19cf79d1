"""Regression from a point drawn around the view (ProPos, arXiv 2111.11821)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..memory import Clock
from ..schedules import schedule
from .regression import Regression

if TYPE_CHECKING:
    from ..algorithms.method import Method

_CALLS = 64  # more than one iteration draws


@MODELS.register_module()
class PositiveSampling(Regression):
    """What the predictor makes of a draw around z must point where the target points.

    ``shift - scale * cos(h(z + sigma eps), z')`` with ``eps ~ N(0, I)``: the projection
    stands for a neighbourhood of the instance, all of which is to be predicted rightly.
    z is the projection as it is, not a unit row. ``sigma = 0`` is ``Regression``.

    Args:
        predictor: Config of h, e.g. mmpretrain's ``NonLinearNeck``.
        sigma: Standard deviation: a number, or a
            :class:`~mmssl_ext.models.schedules.Schedule`.
        shift: See :class:`Regression`.
        scale: See :class:`Regression`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``sigma`` is negative or cannot be read.
    """

    def __init__(
        self,
        predictor: dict | None,
        sigma: Any = 0.001,
        shift: float = 2.0,
        scale: float = 2.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(predictor, shift, scale, init_cfg)
        self.sigma = schedule(sigma, "sigma")
        self.schedules = (self.sigma,)
        self._drawn = (-1, 0)  # the iteration, and how often it drew before

    def attach(self, method: Method) -> None:
        """Look at the method's clock."""
        super().attach(method)
        self._clock = (method.clock,)  # in a tuple: no module of this one

    def predict(self, projection: Tensor) -> Tensor:
        """h(z + sigma eps) in training, else h(z)."""
        sigma = self.sigma(self._clock[0]) if self.training else 0
        if sigma:
            projection = projection + sigma * self.noise(projection)
        return super().predict(projection)

    def noise(self, like: Tensor) -> Tensor:
        """eps, N x D, which follows from the iteration; ranks draw as one would."""
        clock: Clock = self._clock[0]
        step, number = self._drawn
        number = number + 1 if step == clock.num_steps else 0
        self._drawn = (clock.num_steps, number)
        generator = torch.Generator(like.device)
        # A CPU's generator looks at the lower 32 bits alone.
        generator.manual_seed(_CALLS * clock.num_steps + number)
        shape = (get_world_size(), *like.shape)
        eps = torch.randn(shape, generator=generator, device=like.device)
        return eps[get_rank()].to(like)
