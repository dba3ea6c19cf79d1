"""The momentum network (MoCo, arXiv 1911.05722, equation 2; BYOL, 2006.07733)."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmssl_ext import compat
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import shuffle_batch, unit, unshuffle_batch, without_dropout
from ..memory.step_counter import StepCounter
from ..part import Features
from ..schedules import schedule
from .base import Target, View

if TYPE_CHECKING:
    from ..algorithms.method import Method


@MODELS.register_module()
class MomentumTarget(Target, StepCounter):
    """Copies of the online network's parts that follow them slowly.

    ``theta' <- m * theta' + (1 - m) * theta`` for parameters, before the targets are
    encoded and once for each step of the optimizer. Buffers are not averaged: the copy
    keeps BatchNorm statistics of its own. The first update is an exact copy, whatever
    initialised or loaded the online network before it. Dropout and drop path of the
    online network are switched off in the copy.

    Args:
        momentum: m, the share of the old value that is kept, e.g. 0.999; a number or a
            :class:`~mmssl_ext.models.schedules.Schedule`, such as BYOL's
            ``dict(kind="cosine", start=0.996, end=1)``.

    Raises:
        ValueError: ``momentum`` is outside [0.5, 1].
    """

    encodes = True
    backbone: nn.Module  # the parts that every method has
    neck: nn.Module

    def __init__(self, momentum: Any = 0.999) -> None:
        super().__init__()
        self.momentum = schedule(momentum, "momentum", low=-math.inf)
        for value in (self.momentum.start, self.momentum.end):
            if not 0.5 <= value <= 1:
                raise UserValueError(
                    f"momentum={value} would keep {value:.1%} of the target network at "
                    "each step. Here momentum is the share that is kept, so MoCo's "
                    "value is 0.999. Other code bases give the share of the new value "
                    "(0.001): set momentum to 1 minus that."
                )

    def attach(self, method: Method) -> None:
        """Copy the parts of the online network."""
        for name, part in method.parts.items():
            copy = deepcopy(part).requires_grad_(False)
            self.add_module(name, without_dropout(copy))

    def start(self, method: Method) -> None:
        """Refuse a schedule whose length nobody knows."""
        self.momentum(method.clock)

    @torch.no_grad()
    def follow(self, method: Method) -> None:
        """Copy parameters and buffers exactly."""
        for name, part in method.parts.items():
            self.get_submodule(name).load_state_dict(part.state_dict())

    @torch.no_grad()
    def update(self, method: Method) -> None:
        """Move towards the online network by one step."""
        momentum = self.momentum(method.clock)
        if self.num_steps == 0:
            self.follow(method)
        else:
            parts = method.parts
            compat.lerp(
                [p for name in parts for p in self.get_submodule(name).parameters()],
                [p for part in parts.values() for p in part.parameters()],
                1 - momentum,
            )
        self.count_step()

    @torch.no_grad()
    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """Update, then encode; where BatchNorm would leak, in shuffled batches."""
        if method.clock.gathered == 0:
            self.update(method)
        if method.shuffles:
            found = self._shuffled(method, views)
        else:
            found = method.encode_all(self, views)
        return {v: f | {"embedding": unit(f["projection"])} for v, f in found.items()}

    def _shuffled(self, method: Method, views: dict[int, View]) -> dict[int, Features]:
        """Features in the order of the views, computed in another."""
        seed, ways, mixed = method.clock.draw_seed, [], {}
        for v, view in views.items():
            whole = isinstance(view, torch.Tensor)
            pairs = [shuffle_batch(x, seed) for x in ((view,) if whole else view)]
            ways.append(pairs[0][1])  # the same for all views
            mixed[v] = pairs[0][0] if whole else tuple(x for x, _ in pairs)
        return {
            v: {name: unshuffle_batch(x, ways[0]) for name, x in features.items()}
            for v, features in method.encode_all(self, mixed).items()
        }

    def extra_repr(self) -> str:
        """Momentum for ``print(model)``."""
        m = self.momentum
        return f"momentum={m.end}" if m.start == m.end else f"momentum={m}"
