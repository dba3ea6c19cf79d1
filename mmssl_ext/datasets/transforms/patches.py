"""An image as a shuffled set of patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import TRANSFORMS

from .random import BatchTransform

Corners = Sequence[tuple[int, int]]  # left, upper of each patch in pixels


@TRANSFORMS.register_module()
class CutPatches(BatchTransform):
    """Cut one random patch out of each cell of a grid, in random order.

    Follows DetCo (arXiv 2102.04803) after PIRL (arXiv 1912.01991). With H x W pixels
    the cells have H // grid x W // grid; the gaps between patches leave neighbours no
    common edge by which to match them. ``results["img"]`` becomes an array
    P x size x size x 3 of P = grid**2 images, so this must be the last transform of a
    view. Patches have no one place in the image, so such a view has no box.

    Args:
        size: Side of the patches in pixels.
        grid: Number of cells along each side of the image.
    """

    device_name = "CutPatches"

    def __init__(self, size: int = 64, grid: int = 3) -> None:
        for name, value in (("size", size), ("grid", grid)):
            if not isinstance(value, int) or value < 1:
                raise UserValueError(
                    f"CutPatches: {name} must be a positive integer, but is {value!r}."
                )
        self.size = size
        self.grid = grid

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Corners:
        """Draw the offset in each cell and the order of the cells.

        Returns:
            Left and upper edge of each patch in the image, in the random order.

        Raises:
            ValueError: The cells are smaller than the patches.
        """
        width, height = (side // self.grid for side in size)
        if min(width, height) < self.size:
            raise UserValueError(
                f"CutPatches: an image of {size[0]} x {size[1]} pixels has cells of "
                f"{width} x {height}, smaller than the patches of {self.size}; let "
                f"RandomResizedCrop before it make at least {self.grid * self.size} "
                "pixels, or choose smaller patches."
            )
        count = self.grid**2
        highest = (width - self.size, height - self.size)
        offsets = rng.integers(0, highest, (count, 2), endpoint=True)
        order = rng.permutation(count)  # patch j is cut from cell order[j]
        cells = np.stack([order % self.grid * width, order // self.grid * height], 1)
        return list(map(tuple, (cells + offsets[order]).tolist()))

    def encode(self, params: Corners) -> np.ndarray:
        """Return the side of the patches, then left and upper edge of each."""
        return np.array([self.size, *(v for c in params for v in c)], np.float32)

    @staticmethod
    def change(img: np.ndarray, values: list[float]) -> np.ndarray:
        """Return the patches, P x size x size x 3."""
        size, *edges = map(int, values)
        corners = zip(edges[::2], edges[1::2], strict=True)
        return np.stack([img[y : y + size, x : x + size] for x, y in corners])
