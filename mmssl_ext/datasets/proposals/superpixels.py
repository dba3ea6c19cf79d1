"""Boxes of a tree of superpixels: proposals by OpenCV's core and NumPy alone.

In the manner of selective search (Uijlings et al., IJCV 2013), with other parts, so no
result of that holds here:

1. The image is reduced to a longer side of 192 pixels. A watershed of its gradient,
   from one seed per cell of a grid, 12 cells along that side, each at the flattest
   pixel of its cell, gives up to 144 superpixels that end at edges.
2. The two neighbours that are most alike are merged, again and again, until one region
   is left. Two measures give two trees: ``n_a n_b / (n_a + n_b) |mean_a - mean_b|^2``,
   by which the squared deviation of the colours (CIELAB) rises, as Ward's clustering
   has it; and the same with the square root of ``n_a n_b / (n_a + n_b)``, which lets
   small regions of their own colour live on.
3. The box of every region in both trees is a proposal.

All of it follows from the pixels; nothing is drawn.
"""

from __future__ import annotations

import cv2
import numpy as np

LONG_SIDE = 192  # pixels of the copy that is worked on
_SEEDS = 12  # cells of the grid along the longer side
_SIZE_POWERS = (1.0, 0.5)  # of the sizes in the two measures


def superpixel_boxes(img: np.ndarray) -> np.ndarray:
    """Boxes of an image, n x 4 in pixels: left, upper, right, lower.

    Args:
        img: Upright RGB, uint8, H x W x 3.
    """
    height, width = img.shape[:2]
    scale = min(1.0, LONG_SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    copy = cv2.resize(img, small, interpolation=cv2.INTER_AREA)
    copy = cv2.GaussianBlur(copy, (0, 0), 0.8)
    labels = _superpixels(copy)
    lab = cv2.cvtColor(copy, cv2.COLOR_RGB2LAB).astype(np.float64)
    leaves = _Regions(labels, lab)
    boxes = np.concatenate([leaves.tree(power) for power in _SIZE_POWERS])
    back = np.array([width / small[0], height / small[1]] * 2)
    return boxes * back


def _superpixels(img: np.ndarray) -> np.ndarray:
    """Number of the superpixel of each pixel, h x w, from 0."""
    gray = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY).astype(np.float32)
    dx, dy = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    slope = cv2.magnitude(dx, dy)
    height, width = gray.shape
    cell = max(2, round(max(height, width) / _SEEDS))
    seeds = np.zeros((height, width), np.int32)
    number = 0
    for top in range(0, height, cell):
        for left in range(0, width, cell):
            part = slope[top : top + cell, left : left + cell]
            y, x = np.unravel_index(np.argmin(part), part.shape)
            number += 1
            seeds[top + y, left + x] = number
    found = cv2.watershed(img, seeds)
    # The lines between basins are -1: they go to what is left of or above them.
    for axis in (1, 0, 1, 0):
        before = np.roll(found, 1, axis)
        after = np.roll(found, -1, axis)
        found = np.where(found > 0, found, np.where(before > 0, before, after))
    _, numbered = np.unique(np.maximum(found, 1), return_inverse=True)
    return numbered.reshape(height, width)


class _Regions:
    """Sizes, mean colours, boxes and neighbours of superpixels."""

    def __init__(self, labels: np.ndarray, colours: np.ndarray) -> None:
        flat, self.count = labels.ravel(), int(labels.max()) + 1
        self.sizes = np.bincount(flat, minlength=self.count).astype(np.float64)
        sums = [
            np.bincount(flat, colours[..., c].ravel(), self.count) for c in range(3)
        ]
        self.means = np.stack(sums, 1) / self.sizes[:, None]
        rows, columns = np.indices(labels.shape)
        self.boxes = np.zeros((self.count, 4))
        self.boxes[:, :2] = np.inf
        for side, where in enumerate((columns.ravel(), rows.ravel())):
            np.minimum.at(self.boxes[:, side], flat, where)
            np.maximum.at(self.boxes[:, side + 2], flat, where + 1)
        self.near = np.zeros((self.count, self.count), bool)
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            self.near[a, b] = self.near[b, a] = True
        np.fill_diagonal(self.near, False)

    def tree(self, power: float) -> np.ndarray:
        """Boxes of all regions, merged until one is left; 2n - 1 x 4."""
        sizes, means = self.sizes.copy(), self.means.copy()
        boxes, near = self.boxes.copy(), self.near.copy()
        found = [*self.boxes]
        gap = ((means[:, None] - means) ** 2).sum(-1)
        cost = np.where(near, gap * _shares(sizes[:, None], sizes, power), np.inf)
        for _ in range(self.count - 1):
            a, b = np.unravel_index(np.argmin(cost), cost.shape)
            if not near[a, b]:  # apart: there is no such image, but for safety
                break
            total = sizes[a] + sizes[b]
            means[a] = (sizes[a] * means[a] + sizes[b] * means[b]) / total
            sizes[a] = total
            boxes[a, :2] = np.minimum(boxes[a, :2], boxes[b, :2])
            boxes[a, 2:] = np.maximum(boxes[a, 2:], boxes[b, 2:])
            found.append(boxes[a].copy())
            near[a] |= near[b]
            near[a, a] = False
            near[b] = near[:, b] = False
            near[:, a] = near[a]
            cost[b] = cost[:, b] = np.inf
            gap_a = ((means - means[a]) ** 2).sum(-1)
            row = np.where(near[a], gap_a * _shares(sizes[a], sizes, power), np.inf)
            cost[a] = cost[:, a] = row
        return np.stack(found)


def _shares(a: np.ndarray, b: np.ndarray, power: float) -> np.ndarray:
    return (a * b / (a + b)) ** power
