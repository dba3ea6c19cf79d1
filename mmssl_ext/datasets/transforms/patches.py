"""An image as a shuffled set of patches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from mmssl_ext.registry import TRANSFORMS

from .random import RandomTransform


class PatchParams(NamedTuple):
    """Drawn patches of the cells, counted row by row."""

    offsets: tuple[tuple[int, int], ...]  # of cell i: left, upper in pixels within it
    order: tuple[int, ...]  # patch j is cut from cell order[j]


@TRANSFORMS.register_module()
class CutPatches(RandomTransform):
    """Cut one random patch out of each cell of a grid, in random order.

    Follows DetCo (arXiv 2102.04803) after PIRL (arXiv 1912.01991). With H x W pixels
    the cells have H // grid x W // grid; the gaps between patches leave neighbours no
    common edge by which to match them. ``results["img"]`` becomes a list of grid**2 PIL
    images, so this must be the last transform of a view.

    Args:
        size: Side of the patches in pixels.
        grid: Number of cells along each side of the image.
    """

    def __init__(self, size: int = 64, grid: int = 3) -> None:
        for name, value in (("size", size), ("grid", grid)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"CutPatches: {name} must be a positive integer, but is {value!r}."
                )
        self.size = size
        self.grid = grid

    def draw(self, rng: np.random.Generator, size: tuple[int, int]) -> PatchParams:
        """Draw the offset in each cell and the order of the patches.

        Raises:
            ValueError: The cells are smaller than the patches.
        """
        width, height = (side // self.grid for side in size)
        if min(width, height) < self.size:
            raise ValueError(
                f"CutPatches: an image of {size[0]} x {size[1]} pixels has cells of "
                f"{width} x {height}, smaller than the patches of {self.size}; let "
                f"RandomResizedCrop before it make at least {self.grid * self.size} "
                "pixels, or choose smaller patches."
            )
        count = self.grid**2
        highest = (width - self.size, height - self.size)
        offsets = rng.integers(0, highest, (count, 2), endpoint=True)
        order = rng.permutation(count)
        return PatchParams(tuple(map(tuple, offsets.tolist())), tuple(order.tolist()))

    def apply(  # type: ignore[override]  # the one transform that returns many images
        self, img: Image.Image, params: PatchParams
    ) -> list[Image.Image]:
        """Return the patches, ``size`` x ``size`` pixels each."""
        width, height = (side // self.grid for side in img.size)
        patches = []
        for cell in params.order:
            row, column = divmod(cell, self.grid)
            left = column * width + params.offsets[cell][0]
            upper = row * height + params.offsets[cell][1]
            patches.append(img.crop((left, upper, left + self.size, upper + self.size)))
        return patches
