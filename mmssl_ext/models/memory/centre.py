"""The running mean of what targets say, which is taken off them (DINO, 2104.14294)."""

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

from ..part import is_number


class Centre(nn.Module):
    """A slow mean over the rows of all ranks; part of the checkpoint.

    Args:
        *shape: Of a row.
        momentum: Share of the old mean that is kept.

    Attributes:
        value: The mean, fp32; 0 at first.

    Raises:
        ValueError: ``momentum`` is no share.
    """

    value: Tensor

    def __init__(self, *shape: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = check_share("centre_momentum", momentum)
        self.register_buffer("value", torch.zeros(shape))

    @torch.no_grad()
    def follow(self, total: Tensor, count: Tensor) -> None:
        """Take a step towards the mean of rows.

        Args:
            total: Sum of this rank's rows.
            count: Their number, which differs between ranks where batches do.
        """
        sums = torch.cat([total.flatten(), count.reshape(1).to(total)])
        all_reduce(sums)
        mean = sums[:-1] / sums[-1].clamp(min=1)
        # No row at all: it stays.
        step = (1 - self.momentum) * (sums[-1] > 0)
        old = self.value.flatten()
        new = old + step * (mean - old)
        self.value.copy_(new.view_as(self.value))


def check_share(name: str, value: float) -> float:
    """Return a share that is kept if it is one, else say what to change."""
    if not is_number(value) or not 0 <= value < 1:
        raise UserValueError(
            f"{name}={value!r} is the share of the old centre that each step keeps; "
            "set it from 0 to below 1 (0.9 is usual)."
        )
    return value
