"""Which iteration of a training it is, for what changes in its course."""

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError

from .step_counter import StepCounter


class Clock(StepCounter):
    """Counts iterations; part of the checkpoint.

    The model counts by itself, one iteration for every call of its ``loss``. A runner
    corrects the count, so that weights which another run brought along start anew.

    Attributes:
        total: Iterations of the training, None where nobody has told.
        epoch_length: Iterations of an epoch, likewise.
        accumulation: Iterations whose gradients make one step of the optimizer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total: int | None = None
        self.epoch_length: int | None = None
        self.accumulation = 1

    @property
    def gathered(self) -> int:
        """Iterations whose gradients wait already for the optimizer's next step."""
        return self.num_steps % self.accumulation

    @property
    def ends_step(self) -> bool:
        """Whether the optimizer's step follows this iteration."""
        last = self.total is not None and self.num_steps + 1 == self.total
        return self.gathered + 1 == self.accumulation or last

    @property
    def draw_seed(self) -> int:
        """For draws that follow from the iteration; equal on all ranks."""
        return self.num_steps // self.accumulation + 1 + (self.gathered << 32)


def indices(data_samples: object, device: torch.device) -> Tensor | None:
    """Positions of the images in the dataset, N; None where one has none."""
    samples = data_samples if isinstance(data_samples, (list, tuple)) else ()
    found = [sample.get("sample_idx") for sample in samples]
    if not found or any(index is None for index in found):
        return None
    return torch.tensor(found).to(device, non_blocking=True)


def positions(index: Tensor | None, length: int, who: str) -> Tensor:
    """Positions of a step's images, N, if they are known and in a table by image.

    Args:
        index: What the step knows of them.
        length: Images of the table.
        who: Needs them, for messages.

    Raises:
        ValueError: An index is missing, or outside of the table.
    """
    if index is None:
        raise UserValueError(
            f"{who} needs to know which image is which: let the pipeline end with "
            "PackViews, whose items carry index."
        )
    if index.device.type == "cpu" and len(index):  # else it would wait
        low, high = int(index.min()), int(index.max())
        if not 0 <= low <= high < length:
            raise UserValueError(
                f"The index of the images runs from {low} to {high}, but the bank has "
                f"{length} images; fill it from the dataset that is trained on."
            )
    return index
