"""Images mixed in pairs, with one share or one box for the whole batch.

Mixup and CutMix as Un-Mix uses them (arXiv 2003.05438, section 3): image i is mixed
with image N - 1 - i, so that the mixtures in reversed order are those of the other
share.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..memory.step_counter import StepCounter
from ..part import is_number
from .region import Region, swap_region

_STREAM = 1  # tells these draws from those of a RegionSampler in the same step


class Mixture(NamedTuple):
    """How the images of a batch are mixed.

    Attributes:
        share: lam, of its own image in each mixture; the partner has the rest.
        box: Pixels that come from the partner; None blends all of them.
    """

    share: float
    box: Region | None = None

    def of(self, images: Tensor) -> Tensor:
        """Mixtures of images N x C x H x W and the same in reversed order."""
        if self.box is None:
            return images.lerp(images.flip(0), 1 - self.share)
        order = torch.arange(len(images), device=images.device).flip(0)
        return swap_region(images, self.box, order)


class MixtureSampler(StepCounter):
    """Draws the mixture of the local batch at every training step.

    The draw follows from the step and the rank, on the host: no device is waited for,
    and a resumed run draws what the uninterrupted one would have drawn.

    Args:
        mixup_prob: P, chance of a blend of all pixels; otherwise a box is exchanged.
        alpha: Of the distribution Beta(alpha, alpha) of the share; 1 is uniform.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, mixup_prob: float = 0.5, alpha: float = 1.0) -> None:
        super().__init__()
        if not is_number(mixup_prob) or not 0 <= mixup_prob <= 1:
            raise UserValueError(
                f"mixup_prob={mixup_prob!r} is the chance that whole images are "
                "blended rather than a box exchanged; set it between 0 and 1."
            )
        if not is_number(alpha) or alpha <= 0:
            raise UserValueError(
                f"alpha={alpha!r} shapes the distribution Beta(alpha, alpha) of the "
                "images' shares and must be positive; 1 makes all shares alike."
            )
        self.mixup_prob, self.alpha = mixup_prob, alpha

    def draw(self, height: int, width: int) -> Mixture:
        """Draw a mixture for images of ``height`` x ``width`` pixels."""
        rng = np.random.default_rng([self.num_steps, get_rank(), _STREAM])
        if self.training:
            self.count_step()
        share = float(rng.beta(self.alpha, self.alpha))
        if rng.random() < self.mixup_prob:
            return Mixture(share)
        centre = int(rng.integers(height)), int(rng.integers(width))
        return cutmix(share, centre, (height, width))

    def extra_repr(self) -> str:
        """Options for ``print(model)``."""
        return f"mixup_prob={self.mixup_prob}, alpha={self.alpha}"


def cutmix(share: float, centre: tuple[int, int], size: tuple[int, int]) -> Mixture:
    """The exchange of a box whose area, before it is clipped, is ``1 - share``.

    Args:
        share: lam as it was drawn.
        centre: Of the box, (y, x) in pixels, anywhere in the image.
        size: Of the images, (H, W).

    Returns:
        The box, clipped to the image, and the share of pixels that are left.
    """
    cut = math.sqrt(1 - share)
    halves = [int(side * cut) // 2 for side in size]
    axes = list(zip(centre, halves, size, strict=True))
    top, left = (max(0, c - half) for c, half, _ in axes)
    bottom, right = (min(side, c + half) for c, half, side in axes)
    box = Region(top, left, bottom - top, right - left)
    return Mixture(1 - box.height * box.width / (size[0] * size[1]), box)
