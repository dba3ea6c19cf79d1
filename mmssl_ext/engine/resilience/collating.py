"""Batches of images that differ in size: a sentence instead of torch's error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mmssl_ext.errors import UserValueError
from mmssl_ext.text import shown


class ImageSizesError(UserValueError):
    """The images of a batch come out of the pipeline in different sizes."""


class SizedCollate:
    """A collate function that names the images which do not fit together.

    Args:
        collate: Makes a batch of a list of items.
    """

    def __init__(self, collate: Callable[[list], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list) -> Any:
        """Return the batch.

        Raises:
            ImageSizesError: The images differ in size and would have to be stacked.
        """
        try:
            return self.collate(items)
        except RuntimeError as error:
            if (said := _differing(items)) is None:  # torch has several messages
                raise
            raise ImageSizesError(
                f"The images come out of the pipeline in different sizes, {said}, and "
                "make no batch. Let the pipeline of this dataset give them one size: "
                "RandomResizedCrop in training, ResizeShort and CenterCrop in a test."
            ) from error


def _differing(items: Sequence[Any]) -> str | None:
    """Two images of different shapes, with their sizes; None where there are none."""
    first = None
    for item in items:
        inputs = item.get("inputs") if isinstance(item, dict) else None
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        shapes = [tuple(getattr(view, "shape", ())) for view in views]
        first = first or (shapes, item)
        for other, shape in zip(first[0], shapes, strict=False):
            if shape != other and len(shape) > 2 and len(other) > 2:
                return f"{_said(other, first[1])} and {_said(shape, item)}"
    return None


def _said(shape: tuple[int, ...], item: dict) -> str:
    sample: Any = item.get("data_samples")
    name = sample.get("img_path", "?") if hasattr(sample, "get") else "?"
    return f"{shape[-1]} x {shape[-2]} ({shown(name)})"
