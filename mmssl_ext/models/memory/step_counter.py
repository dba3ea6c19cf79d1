"""The number of steps, for what follows from it without a draw of chance."""

from typing import Any

import torch
from torch import Tensor, nn


class StepCounter(nn.Module):
    """Counts training steps; part of the checkpoint, so that a resumed run goes on.

    Attributes:
        steps: Number of steps so far, shape 1, on the device and in the checkpoint.
        num_steps: The same number for Python, so that no step waits for the device.
    """

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1, dtype=torch.long))
        self.num_steps = 0

    def count_step(self, count: int = 1) -> None:
        """Add one step, or so many."""
        self.num_steps += count
        self.steps += count

    @torch.no_grad()
    def set(self, count: int) -> None:
        """Show this number; waits for no device."""
        if count != self.num_steps:
            self.num_steps = count
            self.steps.fill_(count)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.num_steps = int(self.steps)
