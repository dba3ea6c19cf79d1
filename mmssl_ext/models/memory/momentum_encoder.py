"""The momentum-updated key encoder (MoCo, arXiv 1911.05722, equation 2)."""

from copy import deepcopy

import torch
from torch import nn

from .step_counter import StepCounter


class MomentumEncoder(StepCounter):
    """Copies of the query encoder's parts that follow them slowly.

    ``theta_k <- m * theta_k + (1 - m) * theta_q`` for parameters. Buffers are not
    averaged: the key encoder keeps BatchNorm statistics of its own. The first update is
    an exact copy, whatever initialised or loaded the query encoder before it.

    Args:
        momentum: m, the share of the old value that is kept, e.g. 0.999.
        **parts: Query modules by name; ``encoder.backbone`` is then the copy of
            ``backbone=...``.

    Raises:
        ValueError: ``momentum`` is outside [0.5, 1].
    """

    backbone: nn.Module  # the parts that every method has
    neck: nn.Module

    def __init__(self, momentum: float, **parts: nn.Module) -> None:
        super().__init__()
        if not 0.5 <= momentum <= 1:
            raise ValueError(
                f"momentum={momentum} would keep {momentum:.1%} of the key encoder at "
                "each step. Here momentum is the share that is kept, so MoCo's value "
                "is 0.999. Other code bases give the share of the new value (0.001): "
                "set momentum to 1 minus that."
            )
        self.momentum = momentum
        for name, part in parts.items():
            self.add_module(name, deepcopy(part).requires_grad_(False))

    @torch.no_grad()
    def copy_from(self, **parts: nn.Module) -> None:
        """Copy parameters and buffers of the query's parts exactly."""
        for name, part in parts.items():
            self.get_submodule(name).load_state_dict(part.state_dict())

    @torch.no_grad()
    def update(self, **parts: nn.Module) -> None:
        """Move towards the query's parts by one step (before the keys are encoded)."""
        if self.num_steps == 0:
            self.copy_from(**parts)
        else:
            torch._foreach_lerp_(
                [p for name in parts for p in self.get_submodule(name).parameters()],
                [p for part in parts.values() for p in part.parameters()],
                1 - self.momentum,
            )
        self.count_step()

    def extra_repr(self) -> str:
        """Momentum for ``print(model)``."""
        return f"momentum={self.momentum}"
