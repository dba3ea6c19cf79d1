"""Images of many bands for the toolboxes: read and normalised as in the pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.datasets.transforms.bands import (
    Bands,
    DecodeBands,
    check_bands,
    count_of,
)
from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadBands(DecodeBands):
    """``DecodeBands`` in the place of mmcv's ``LoadImageFromFile``.

    Besides ``img``, float32 H x W x C in units of 0 to 255, it writes the shapes that
    the transforms of mmdet and mmseg read. Their changes of colours need 8-bit RGB.
    """

    def __call__(self, results: dict) -> dict:
        """Add ``results["img"]``, ``"img_shape"`` and ``"ori_shape"``."""
        results = super().__call__(results)
        results["img_shape"] = results["ori_shape"] = results["img"].shape[:2]
        return results


class OfBands:
    """Makes a data preprocessor of a toolbox take bands: a value of mean for each.

    Args:
        mean: Of each band that ``LoadBands`` reads, in units of 0 to 255.
        std: Likewise.
        bands: What ``LoadBands`` is told.
        value_range: Likewise.
        **options: Of the toolbox's class.

    Raises:
        UserValueError: Mean or deviation are missing, or of another number.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        bands: Bands,
        value_range: Any = None,
        **options: Any,
    ) -> None:
        count = count_of(check_bands(bands))
        if len(mean or ()) != count or len(std or ()) != count or min(std or ()) <= 0:
            raise UserValueError(
                f"mean={mean!r} and std={std!r} must have a value for each of the "
                f"{count} bands, and those of std be positive: set them as in the "
                "pretraining, or as `mmssl-ext stats FOLDER` prints them."
            )
        # The toolboxes take one or three values, and divide by what stands there.
        super().__init__(mean=[0.0], std=[1.0], **options)  # type: ignore[call-arg]
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, tensor, False)  # type: ignore[attr-defined]
        self.decode = LoadBands(bands, value_range)  # for pictures of the images
        self.bands, self.value_range = self.decode.bands, self.decode.value_range


def decoder_in(pipeline: Any) -> DecodeBands | None:
    """The first step of a pipeline's config, where it reads bands."""
    for step in pipeline or ():
        if isinstance(step, dict) and str(step.get("type")).endswith("LoadBands"):
            return DecodeBands(step["bands"], step.get("value_range"))
    return None
