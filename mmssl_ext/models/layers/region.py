"""Rectangles swapped between images, and the pooling of what they hold.

RegionCL (arXiv 2111.12309, section 3). A rectangle is drawn in cells of the pooled
feature map, and its pixels are those cells times the stride: the two cannot disagree.
"""

from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..memory.step_counter import StepCounter


class Region(NamedTuple):
    """A rectangle, in cells of a feature map or in pixels."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, stride: int) -> "Region":
        """The same rectangle in units that are ``stride`` times smaller."""
        return Region(*(stride * value for value in self))

    @property
    def window(self) -> tuple:
        """Index of the rectangle in ... x H x W."""
        rows = slice(self.top, self.top + self.height)
        return ..., rows, slice(self.left, self.left + self.width)


class RegionSampler(StepCounter):
    """Draws one rectangle for the whole local batch at every training step.

    Height and width are independent and uniform, and so is the place among all where
    the rectangle fits, up to the borders. The draw follows from the step and the rank,
    on the host: no device is waited for, and a resumed run draws what the
    uninterrupted one would have drawn.

    Args:
        cells: Smallest and largest side in cells, both included.
        stride: Pixels per cell, the stride of the pooled feature map.

    Raises:
        ValueError: ``cells`` or ``stride`` is no valid range or size.
    """

    def __init__(self, cells: tuple[int, int] = (3, 5), stride: int = 32) -> None:
        super().__init__()
        whole = all(type(size) is int for size in (*cells, stride))
        if not whole or len(cells) != 2 or not 1 <= cells[0] <= cells[1] or stride < 1:
            raise UserValueError(
                f"region: cells={tuple(cells)} must be the smallest and the largest "
                f"side of a region in cells, 1 or more, and stride={stride!r} the "
                "positive number of pixels per cell."
            )
        self.cells = tuple(cells)
        self.stride = stride

    def draw(self, height: int, width: int) -> Region:
        """Draw a rectangle in cells for images of ``height`` x ``width`` pixels.

        Raises:
            ValueError: The image is no whole number of cells, or the largest region
                would leave no canvas.
        """
        if height % self.stride or width % self.stride:
            raise UserValueError(
                f"Images of {height} x {width} pixels are no whole number of cells of "
                f"{self.stride} pixels, so a region could not be pooled exactly; crop "
                f"to a multiple of {self.stride}, or set region.stride to the stride "
                "of the backbone's last stage."
            )
        grid = height // self.stride, width // self.stride
        low, high = self.cells
        if high > min(grid) or high >= max(grid):
            raise UserValueError(
                f"A region of up to {high} x {high} cells of {self.stride} pixels does "
                f"not fit into images of {height} x {width} pixels ({grid[0]} x "
                f"{grid[1]} cells) with something left around it; set region.cells "
                "lower or use larger crops."
            )
        rng = np.random.default_rng([self.num_steps, get_rank()])
        sides = [int(rng.integers(low, high + 1)) for _ in grid]
        starts = [
            int(rng.integers(0, cells - side + 1))
            for cells, side in zip(grid, sides, strict=True)
        ]
        if self.training:
            self.count_step()
        return Region(*starts, *sides)

    def extra_repr(self) -> str:
        """Sizes for ``print(model)``."""
        return f"cells={self.cells}, stride={self.stride}"


def pairing(num_images: int, device: torch.device | None = None) -> Tensor:
    """Whose content each image takes: N indices, nobody's own where N > 1.

    The reversed order of the reference for an even N. For an odd N, whose middle image
    would get its own content, every image takes that of the one before it.
    """
    order = torch.arange(num_images, device=device)
    return order.roll(1) if num_images % 2 else order.flip(0)


def swap_region(images: Tensor, region: Region, order: Tensor) -> Tensor:
    """Images N x C x H x W with a pixel region taken from the images ``order``."""
    mixed = images.clone()
    mixed[region.window] = images[region.window][order]
    return mixed


def pool_regions(maps: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """Means of a map N x C x h x w outside and inside a region of cells, N x C each.

    Returns:
        Canvas (outside) and paste (inside), fp32 or wider.
    """
    maps = maps.to(torch.promote_types(maps.dtype, torch.float))
    area = region.height * region.width
    inside = maps[region.window].sum((2, 3))
    outside = maps.sum((2, 3)) - inside
    return outside / (maps.shape[2] * maps.shape[3] - area), inside / area
