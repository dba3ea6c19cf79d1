"""Several views of one decoded image, and the item that the model receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from PIL import Image

from mmssl_ext.registry import TRANSFORMS

from .patches import CutPatches


@TRANSFORMS.register_module()
class MakeViews:
    """Cut all views from the one decoded image.

    Reads ``results["img"]`` and writes ``results["views"]``, a list with one PIL image,
    or list of PIL images after :class:`CutPatches`, per view. View v draws from its
    own stream, so its draws do not depend on the other views.

    Args:
        views: The transforms of each view: a list of lists.

    Raises:
        ValueError: ``views`` is no such list, or a transform follows CutPatches.
    """

    def __init__(self, views: Sequence[Sequence[Any]]) -> None:
        if not views or any(isinstance(v, dict) or callable(v) for v in views):
            raise ValueError(
                "MakeViews: views must be a list with one list of transforms per view, "
                f"e.g. [[...], [...]], but is {views!r}."
            )
        self.pipelines = [
            [TRANSFORMS.build(t) if isinstance(t, dict) else t for t in view]
            for view in views
        ]
        for pipeline in self.pipelines:
            if any(isinstance(t, CutPatches) for t in pipeline[:-1]):
                raise ValueError(
                    "MakeViews: CutPatches turns the image into a list of patches, "
                    "which no other transform takes; put it last in its view."
                )

    def __call__(self, results: dict) -> dict:
        """Add ``results["views"]``."""
        draws, views = results["draws"], []
        for number, pipeline in enumerate(self.pipelines):
            inner = {**results, "rng": draws.view(number)}
            for transform in pipeline:
                inner = transform(inner)
            views.append(inner["img"])
        results["views"] = views
        return results


def to_tensor(img: Image.Image | list[Image.Image]) -> torch.Tensor:
    """Return PIL images in RGB as uint8: one as 3 x H x W, a list as P x 3 x H x W."""
    if isinstance(img, list):
        return torch.stack([to_tensor(patch) for patch in img])
    planes = np.asarray(img).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


@TRANSFORMS.register_module()
class PackViews:
    """Pack ``dict(inputs=..., data_samples=DataSample)``.

    ``inputs`` is a list of uint8 RGB tensors, one per view, or a single tensor for a
    pipeline without :class:`MakeViews`: 3 x H x W of an image, P x 3 x H x W of P
    patches. The data sample holds ``sample_idx``, ``img_path``, ``skipped`` and, where
    labelled, ``gt_label``.
    """

    def __call__(self, results: dict) -> dict:
        """Return the item."""
        meta = {k: results[k] for k in ("sample_idx", "img_path", "skipped")}
        data_sample = DataSample(metainfo=meta)
        if "gt_label" in results:
            data_sample.set_gt_label(results["gt_label"])
        if "views" in results:
            inputs: Any = [to_tensor(view) for view in results["views"]]
        else:
            inputs = to_tensor(results["img"])
        return {"inputs": inputs, "data_samples": data_sample}
