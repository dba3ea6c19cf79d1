"""Drawing of the demo scenes: textured objects on noisy ground.

A scene shows one dominant object, whose class is that of the image, and up to two
smaller ones of other classes, without overlap. A class has a few individuals with two
colours each, which recur in many scenes; hues are independent of the class. Pose,
scale, texture phase, ground, illumination, blur and grain are random.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .shapes import CLASSES, SHAPES, TEXTURES

Array = np.ndarray
_OVERSAMPLING = 8
_GROUND = (0.1, 0.25, 0.6)  # mean hue, saturation and value
_INDIVIDUALS = 4  # of a class


@dataclass
class SceneObject:
    """One drawn object."""

    label: int  # class index in ``CLASSES``
    outline: Array  # P x 2 points (x, y) in pixels
    mask: Array  # pixels that it covers by half or more, H x W bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Extent of the mask: left, upper, right, lower, the last two exclusive."""
        xs = np.flatnonzero(self.mask.any(axis=0))
        ys = np.flatnonzero(self.mask.any(axis=1))
        return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


@dataclass
class Scene:
    """A drawn image with its objects; the first one is dominant."""

    image: Array  # H x W x 3, uint8, RGB
    objects: list[SceneObject]  # one to three, without overlap

    @property
    def instances(self) -> Array:
        """H x W, uint8: 0 background, otherwise 1 + index of the object."""
        ids = np.zeros(self.image.shape[:2], np.uint8)
        for number, obj in enumerate(self.objects, start=1):
            ids[obj.mask] = number
        return ids

    @property
    def semantic(self) -> Array:
        """H x W, uint8: 0 background, otherwise 1 + class index."""
        return np.array([0, *(o.label + 1 for o in self.objects)], np.uint8)[
            self.instances
        ]


def draw_scene(label: int, size: int, key: tuple[int, ...]) -> Scene:
    """Draw a scene; a pure function of its arguments.

    Args:
        label: Class of the dominant object.
        size: Side of the square image in pixels.
        key: Non-negative numbers that seed the random generator.
    """
    rng = np.random.default_rng(key)
    canvas = _background(rng, size)
    light = rng.uniform(0, 2 * np.pi)
    objects: list[SceneObject] = []
    taken = np.zeros((size, size), bool)
    others = rng.permutation([i for i in range(len(CLASSES)) if i != label])
    for number, kind in enumerate([label, *others[: rng.integers(3)]]):
        for _ in range(8):
            span = rng.uniform(0.34, 0.46) if number == 0 else rng.uniform(0.08, 0.12)
            outline, center, turn = _pose(rng, kind, span * size, size)
            coverage = _coverage(outline, size)
            if not taken[coverage > 0].any():
                break
        else:
            continue
        _paint(rng, canvas, coverage, kind, center, turn, span * size, light)
        taken |= coverage > 0
        objects.append(SceneObject(int(kind), outline, coverage >= 0.5))
    return Scene(_photograph(rng, canvas, light), objects)


def _paints(rng: np.random.Generator, kind: int) -> Array:
    """Return the two colours of a random individual of a class, 2 x 3."""
    own = np.random.default_rng((kind, int(rng.integers(_INDIVIDUALS))))
    while True:
        hsv = own.uniform((0, 0.3, 0.3), (1, 0.9, 0.95), (2, 3))
        paints = np.array([colorsys.hsv_to_rgb(*colour) for colour in hsv], np.float32)
        if np.abs(paints[0] - paints[1]).mean() >= 0.25:  # the texture is visible
            return paints


def _noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    grid = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    smooth = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth)


def _coordinates(size: int) -> tuple[Array, Array]:
    axis = np.arange(size, dtype=np.float32) + 0.5
    return axis[None, :], axis[:, None]


def _background(rng: np.random.Generator, size: int) -> Array:
    octaves = zip((2, 5, 11, 24), (0.1, 0.2, 0.2, 0.3), strict=True)
    field = np.zeros((size, size), np.float32)
    for cells, weight in octaves:
        field += _noise(rng, size, cells) * weight
    hue, saturation, value = _GROUND + rng.uniform(-1, 1, 3) * (0.09, 0.15, 0.12)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)
    return colour * (1 + 0.12 * field[..., None])


def _pose(
    rng: np.random.Generator, kind: int, radius: float, size: int
) -> tuple[Array, Array, float]:
    points = SHAPES[CLASSES[kind].split("_")[1]]
    turn = rng.uniform(-0.35, 0.35)
    stretch = np.exp(rng.uniform(-0.18, 0.18))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = (points * [stretch, 1 / stretch]) @ rotation
    points = points * (2 * radius / np.ptp(points, axis=0).max())
    low, high = 1 - points.min(axis=0), size - 1 - points.max(axis=0)
    center = low + (high - low) * rng.random(2)
    return points + center, center, turn


def _coverage(outline: Array, size: int) -> Array:
    """Return the fraction of each pixel that lies within the outline, H x W.

    Exact along x and by sampling along y. PIL's polygons would not do: they round the
    corners to whole pixels.
    """
    top, bottom = int(outline[:, 1].min()), int(outline[:, 1].max()) + 1
    count = (bottom - top) * _OVERSAMPLING
    rows = top + (np.arange(count)[:, None] + 0.5) / _OVERSAMPLING
    start, end = outline, np.roll(outline, -1, axis=0)
    crossed = (start[:, 1] <= rows) != (end[:, 1] <= rows)  # rows x edges
    rise = np.where(start[:, 1] == end[:, 1], 1, end[:, 1] - start[:, 1])
    x = start[:, 0] + (rows - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    x = np.sort(np.where(crossed, x, np.inf), axis=1)[:, : crossed.sum(axis=1).max()]
    # The spans within lie between the crossings 0 and 1, 2 and 3, and so on.
    columns = np.arange(size, dtype=np.float32)
    left_of = np.clip(x.astype(np.float32)[:, :, None] - columns, 0, 1)
    spans = (left_of[:, 1::2] - left_of[:, ::2]).sum(axis=1)
    coverage = np.zeros((size, size), np.float32)
    coverage[top:bottom] = spans.reshape(-1, _OVERSAMPLING, size).mean(axis=1)
    return coverage


def _paint(
    rng: np.random.Generator,
    canvas: Array,
    coverage: Array,
    kind: int,
    center: Array,
    turn: float,
    radius: float,
    light: float,
) -> None:
    size = len(canvas)
    x, y = _coordinates(size)
    dx, dy = (x - center[0]) / radius, (y - center[1]) / radius

    shadow = Image.fromarray((coverage * 255).astype(np.uint8))
    shadow = shadow.filter(ImageFilter.GaussianBlur(0.06 * radius + 0.5))
    shift = 0.12 * radius * np.array([np.cos(light), np.sin(light)])
    moved = shadow.transform(
        shadow.size, Image.Transform.AFFINE, (1, 0, shift[0], 0, 1, shift[1])
    )
    fall = np.asarray(moved, np.float32) / 255
    canvas *= (1 - 0.3 * fall)[..., None]

    tilt = turn + rng.uniform(-0.15, 0.15)
    wave = rng.uniform(7.5, 9.5)
    u = wave * (dx * np.cos(tilt) + dy * np.sin(tilt)) + rng.uniform(0, 2 * np.pi)
    v = wave * (dy * np.cos(tilt) - dx * np.sin(tilt)) + rng.uniform(0, 2 * np.pi)
    texture = TEXTURES[CLASSES[kind].split("_")[0]](u, v, rng)
    blend = (0.5 + 0.5 * np.tanh(rng.uniform(2.0, 4.0) * texture))[..., None]
    first, second = _paints(rng, kind)
    shade = 1 + rng.uniform(0.0, 0.35) * (dx * np.cos(light) + dy * np.sin(light))
    body = (first * (1 - blend) + second * blend) * np.clip(shade, 0.4, 1.5)[..., None]
    canvas += coverage[..., None] * (body - canvas)


def _photograph(rng: np.random.Generator, canvas: Array, light: float) -> Array:
    """Apply illumination, exposure, blur and grain; return H x W x 3, uint8."""
    size = len(canvas)
    x, y = _coordinates(size)
    slope = ((x - size / 2) * np.cos(light) + (y - size / 2) * np.sin(light)) / size
    exposure = np.exp(rng.uniform(-0.2, 0.15)) * (1 + rng.uniform(0, 0.3) * slope)
    tint = np.exp(rng.normal(0, 0.01, 3)).astype(np.float32)
    picture = canvas * exposure[..., None].astype(np.float32) * tint
    contrast, saturation = rng.uniform(0.85, 1.1), rng.uniform(0.8, 1.1)
    gray = picture.mean(axis=2, keepdims=True)
    picture = gray + saturation * (picture - gray)
    picture = picture.mean() + contrast * (picture - picture.mean())
    picture += rng.normal(0, rng.uniform(0.003, 0.015), picture.shape)
    pixels = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    blur = rng.uniform(0.0, 0.7) * size / 96
    return np.asarray(pixels.filter(ImageFilter.GaussianBlur(blur)))
