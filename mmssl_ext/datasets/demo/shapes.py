"""The shapes and textures that the demo classes are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def _circle(count: int, radius: float = 1.0, start: float = 0.0) -> Array:
    angles = start + np.arange(count) * (2 * np.pi / count)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Array:
    points = _circle(10)
    points[1::2] *= 0.45
    return points


def _cross() -> Array:
    arm, w = 1.0, 0.36
    quarter = np.array([[w, -arm], [w, -w], [arm, -w]])
    turn = np.array([[0, 1], [-1, 0]])  # row vectors: (x, y) -> (-y, x)
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _crescent() -> Array:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 40)
    tips = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    radius = np.hypot(np.cos(outer[0]) - 0.42, np.sin(outer[0]))
    end = np.arctan2(np.sin(outer[0]), np.cos(outer[0]) - 0.42)
    inner = np.linspace(2 * np.pi - end, end, 32)[1:-1]
    cut = np.stack([0.42 + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    return np.concatenate([tips, cut]) + np.array([0.25, 0.0])


def _heart() -> Array:
    t = np.arange(48) * (2 * np.pi / 48)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 16.5


def _arrow() -> Array:
    upper = [[1.0, 0.0], [0.1, 0.9], [0.1, 0.34], [-1.0, 0.34]]
    return np.array(upper + [[x, -y] for x, y in reversed(upper[1:])])


# Outlines in a square of side 2 around the origin, all without holes.
SHAPES: dict[str, Array] = {
    "disk": _circle(48),
    "square": _circle(4, 1.15, np.pi / 4),
    "star": _star() * 1.1,
    "cross": _cross(),
    "triangle": _circle(3, 1.15),
    "crescent": _crescent(),
    "heart": _heart(),
    "arrow": _arrow(),
}


def _speckles(u: Array, v: Array, rng: np.random.Generator) -> Array:
    waves = np.zeros_like(u)
    for angle, phase in rng.uniform(0, 2 * np.pi, (9, 2)):
        waves += np.cos(u * np.cos(angle) + v * np.sin(angle) + phase)
    return waves / 2


# Functions of two phases (radians); positive where the second colour shows.
TEXTURES: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "striped": lambda u, v, rng: np.sin(u),
    "checkered": lambda u, v, rng: np.sin(u) * np.sin(v) * 2,
    "dotted": lambda u, v, rng: np.cos(u) + np.cos(v) - 0.6,
    "zigzag": lambda u, v, rng: np.sin(u + 2.0 * np.arcsin(np.sin(v * 0.8))),
    "ringed": lambda u, v, rng: np.sin(np.hypot(u, v) + rng.uniform(0, 2 * np.pi)),
    "speckled": _speckles,
    "wavy": lambda u, v, rng: np.sin(u + 1.6 * np.sin(v * 0.7)),
    "latticed": lambda u, v, rng: (
        0.75 - np.minimum(np.abs(np.sin(u / 2)), np.abs(np.sin(v / 2))) * 2
    ),
}

# A class is a shape with a texture; its colours are random.
CLASSES = tuple(f"{t}_{s}" for t, s in zip(TEXTURES, SHAPES, strict=True))
