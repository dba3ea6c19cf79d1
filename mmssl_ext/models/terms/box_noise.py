"""Noise of boxes that rises in the course of a training (CCOP, arXiv 2111.13651)."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from mmssl_ext.datasets.transforms.objects import Objects
from mmssl_ext.errors import UserValueError

from ..layers import box_iou, jitter_boxes
from ..schedules import schedule


def _rising(start: float, end: float) -> dict[str, Any]:
    return {"kind": "linear", "start": start, "end": end}


class BoxNoise:
    """Copies of boxes, moved and scaled at random, and which still overlap enough.

    Args:
        name: Of the term, for messages.
        copies: J.
        shift: As for :class:`~mmssl_ext.models.terms.ObjectContrast`, like the others;
            None is the paper's.
        scale: See there.
        min_iou: See there.

    Attributes:
        schedules: Of ``shift``, ``scale`` and ``min_iou``.

    Raises:
        ValueError: One is out of its range.
    """

    def __init__(
        self, name: str, copies: int, shift: Any, scale: Any, min_iou: Any
    ) -> None:
        if type(copies) is not int or copies < 0:
            raise UserValueError(
                f"{name}.copies={copies!r} must be a whole number, 0 or more."
            )
        self.copies = copies
        given = {
            "shift": (shift, _rising(0.15, 0.6), math.inf),
            "scale": (scale, _rising(0.35, 1.4), math.inf),
            "min_iou": (min_iou, _rising(0.8, 0.4), 1),
        }
        self.schedules = tuple(
            schedule(default if value is None else value, f"{name}.{key}", 0, high)
            for key, (value, default, high) in given.items()
        )

    def now(self, clock: Any) -> tuple[float, ...]:
        """``shift``, ``scale`` and ``min_iou`` of an iteration."""
        return tuple(value(clock) for value in self.schedules)

    def draw(self, objects: Objects, batch: int, generator: torch.Generator) -> Tensor:
        """Noise of the copies, M x J x 4; that of an object whatever rank has it."""
        rows, boxes = batch * objects.most, objects.boxes
        noise = torch.rand(
            (get_world_size() * rows, self.copies, 4),
            generator=generator,
            device=boxes.device,
            dtype=torch.float32,
        )
        return noise[get_rank() * rows + objects.rows].to(boxes) - 0.5

    def at_both_ends(self, boxes: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Copies without the boxes, 2 x M x J x 4, and which of them are valid.

        When the training begins, and when it ends.
        """
        stages = [
            noisy_boxes(boxes, noise, *(getattr(s, end) for s in self.schedules))
            for end in ("start", "end")
        ]
        copies, valid = (torch.stack([x[i][:, :-1] for x in stages]) for i in (0, 1))
        return copies, valid


def noisy_boxes(
    boxes: Tensor, noise: Tensor, shift: float, scale: float, min_iou: float
) -> tuple[Tensor, Tensor]:
    """Moved copies of boxes, M x 4, and the boxes themselves behind them.

    Args:
        boxes: M x 4.
        noise: As for :func:`~mmssl_ext.models.layers.jitter_boxes`, like ``shift`` and
            ``scale``.
        shift: See there.
        scale: See there.
        min_iou: Overlap with the box that a copy must have.

    Returns:
        M x (J + 1) x 4, and which overlap their box enough.
    """
    moved = jitter_boxes(boxes, noise, shift, scale)
    whole = torch.ones_like(boxes[:, :1], dtype=torch.bool)
    valid = torch.cat([box_iou(moved, boxes[:, None]) >= min_iou, whole], 1)
    return torch.cat([moved, boxes[:, None]], 1), valid
