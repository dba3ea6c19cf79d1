"""What a method does to its views, from ``model(inputs, mode="inspect")``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import default_collate

from mmssl_ext.errors import ConfigError, UserValueError

from . import (
    assigned,
    cells,
    mixture,
    objects,
    patches,
    places,
    regions,
    shares,
)
from .backgrounds import changes_backgrounds, draw_backgrounds
from .images import to_images
from .sheet import Sheet
from .subject import Subject

TITLE = "What the method does to its views"
JUDGE = ""
DRAWINGS = {
    "mixed": regions.draw_regions,
    "mixture": mixture.draw_mixture,
    "cross": patches.draw_patches,
    "match": cells.draw_cells_of,
    "cosine": places.draw_places,
    "objects": objects.draw_objects,
    "shares": shares.draw_shares,
    "assigned": assigned.draw_assigned,
}
"""By a key of what ``inspect`` returns; of several terms the first is drawn.

Where the pipeline loads masks, :mod:`.backgrounds` draws its views instead.
"""


def draw(subject: Subject) -> Sheet:
    """Draw what a method does to the first images, in the order of their names.

    Raises:
        ConfigError: The model is no method.
        ValueError: It has nothing to draw, or the views are of no use for it.
    """
    model, name = subject.model, subject.name
    if changes_backgrounds(subject.pipeline):
        return draw_backgrounds(subject)
    if not hasattr(model, "inspect"):
        raise ConfigError(
            f"{name} has nothing to draw of its own; choose another --kind, or give "
            "the config of a method of this package."
        )
    count, every = subject.options.num or 4, range(len(subject.dataset))
    items, batch, found = _inspect(subject, every, count)
    if "shares" in found:  # they mean something among many
        items, batch, found = _inspect(subject, subject.spread(shares.MEMORY), None)
        found["shown"] = count
    drawing = next((d for key, d in DRAWINGS.items() if key in found), None)
    if drawing is None:
        raise UserValueError(
            f"{name} returns {', '.join(found)} for mode='inspect', of which there is "
            f"no drawing; one of {', '.join(DRAWINGS)} is needed."
        )
    preprocessor, inputs = model.data_preprocessor, found.pop("inputs")

    def images_of(view: torch.Tensor) -> np.ndarray:
        return to_images(view, preprocessor)

    for key in {"mixed", "mixture"} & found.keys():
        found[key] = images_of(found[key])
    if "cross" in found:
        stages = getattr(model.backbone, "out_indices", range(found["cross"].shape[1]))
        found["levels"] = [f"res{stage + 2}" for stage in stages]
    for key, value in found.items():
        found[key] = value.cpu().numpy() if isinstance(value, torch.Tensor) else value
    if "boxes" in batch:
        found["boxes"] = batch["boxes"][:, :2]
    labels = [subject.file(index) for index in items]
    return drawing(name, found, [images_of(view) for view in inputs], labels)


def _inspect(
    subject: Subject, indices: Sequence[int], most: int | None
) -> tuple[dict[int, Any], dict[str, Any], dict[str, Any]]:
    """Views of images by index, their batch, and what the model makes of it."""
    items = subject.items(indices, subject.pipeline, most)
    try:
        batch = default_collate(list(items.values()))
    except RuntimeError as error:  # of torch.stack
        raise UserValueError(
            "The same view of two images differs in size; let the pipeline make all of "
            "one size (RandomResizedCrop, or ResizeShort and CenterCrop)."
        ) from error
    prepared = subject.model.data_preprocessor(batch)
    known = {k: prepared[k] for k in ("objects",) if k in prepared}
    found = subject.model(prepared["inputs"], mode="inspect", **known)
    return items, batch, {**found, "inputs": prepared["inputs"]}
