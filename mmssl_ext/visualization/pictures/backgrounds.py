"""Background augmentations: images, their masks, and the views that come of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmengine.dataset import default_collate

from mmssl_ext.datasets.transforms.background import RandomBackground, SwapSubject
from mmssl_ext.datasets.transforms.load_mask import LoadMask
from mmssl_ext.datasets.transforms.views import MakeViews

from .images import to_images
from .sheet import COLORS, Sheet, frame, show
from .subject import Subject

_SIDE = 160  # pixels of an image that is shown


def changes_backgrounds(pipeline: Sequence[Any]) -> bool:
    """Whether a pipeline loads masks."""
    return any(isinstance(step, LoadMask) for step in pipeline)


def draw_backgrounds(subject: Subject) -> Sheet:
    """Draw the first images, their masks, and their views, every one changed."""
    pipeline, share = _always(subject.pipeline)
    place = next(i for i, step in enumerate(pipeline) if isinstance(step, LoadMask))
    every = range(len(subject.dataset))
    whole = subject.items(
        every,
        [*pipeline[: place + 1], _original],
        most=subject.options.num or 4,
    )
    items = subject.items(list(whole), pipeline)
    preprocessor = subject.model.data_preprocessor
    inputs = preprocessor(default_collate(list(items.values())))["inputs"]
    views = [to_images(view, preprocessor) for view in inputs]
    swaps = [any(isinstance(t, SwapSubject) for t in v) for v in _views(pipeline)]
    changed = [
        any(isinstance(t, RandomBackground) for t in v) for v in _views(pipeline)
    ]
    kinds = [
        "negative" if swap else f"view {i + 1}{'' if change else ', as it is'}"
        for i, (swap, change) in enumerate(zip(swaps, changed, strict=True))
    ]
    heads = ("image", "mask", *kinds)
    captions = [
        "Each view is cut, mirrored and coloured on its own, its mask with it. Here "
        f"all are changed that can be, in training {share:.0%} of them."
    ]
    if any(swaps):
        captions.append(
            "The negative shows another subject before the background of the image."
        )
    sheet = Sheet(
        f"{subject.name}: subjects before other backgrounds",
        captions,
        len(items),
        len(heads),
    )
    for ax, head in zip(sheet.axes[0], heads, strict=True):
        ax.set_title(head)
    for row, index in enumerate(items):
        color = COLORS[row % len(COLORS)]
        pixels, mask = whole[index]
        shown = [pixels, mask, *(view[row] for view in views)]
        for ax, tile in zip(sheet.axes[row], shown, strict=True):
            show(ax, tile)
            frame(ax, color, 1.5)
        sheet.below(sheet.axes[row][0], subject.file(index, 20), color=color)
    return sheet


def _views(pipeline: Sequence[Any]) -> list[list[Any]]:
    """The transforms of each view."""
    made = next((t for t in pipeline if isinstance(t, MakeViews)), None)
    return [] if made is None else made.pipelines


def _always(pipeline: Sequence[Any]) -> tuple[list[Any], float]:
    """A copy of a pipeline that changes every view, and the share that it changed."""
    shares = [0.0]
    copies = [copy.copy(step) for step in pipeline]
    for step in copies:
        if isinstance(step, MakeViews):
            step.pipelines = [[copy.copy(t) for t in view] for view in step.pipelines]
            for change in (t for view in step.pipelines for t in view):
                if isinstance(change, RandomBackground):
                    shares.append(change.prob)
                    change.prob = 1.0
    return copies, max(shares)


def _original(results: dict) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, as they are shown."""
    pixels = np.asarray(results["img"])
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    mask = results["mask"]
    share = np.ones((height, width)) if mask is None else mask
    shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(share, size, interpolation=cv2.INTER_AREA)
    gray = np.rint(255 * share).astype(np.uint8)
    return shown, np.repeat(gray[..., None], 3, axis=2)
