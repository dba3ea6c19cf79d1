"""Several views of one decoded image, and the item that the model receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmpretrain.structures import DataSample
from PIL import Image

from mmssl_ext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MakeViews:
    """Cut all views from the one decoded image.

    Reads ``results["img"]`` and writes ``results["views"]``, a list of PIL images.
    View v draws from its own stream, so its draws do not depend on the other views.

    Args:
        views: The transforms of each view: a list of lists.
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


def to_tensor(img: Image.Image) -> torch.Tensor:
    """Return a PIL image in RGB as a uint8 tensor 3 x H x W."""
    planes = np.asarray(img).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))


@TRANSFORMS.register_module()
class PackViews:
    """Pack ``dict(inputs=..., data_samples=DataSample)``.

    ``inputs`` is a list of uint8 RGB tensors 3 x H x W, one per view, or a single
    tensor for a pipeline without :class:`MakeViews`. The data sample holds
    ``sample_idx``, ``img_path``, ``skipped`` and, where labelled, ``gt_label``.
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
