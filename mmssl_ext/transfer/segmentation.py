"""Our part of a segmentor; a config names this module in ``custom_imports``."""

from __future__ import annotations

import torch
from mmengine.config import utils
from torch import Tensor

from mmssl_ext.imports import quietly
from mmssl_ext.registry import METRICS, MODELS

from . import ops
from .absent import note_absent
from .bands import OfBands

ops.install()  # mmseg does not import without mmcv's ops
# mmengine looks for a distribution named mmsegmentation, but the maintained build has
# another name; by the name of the package `_base_ = "mmseg::..."` works with both.
utils.MODULE2PACKAGE["mmseg"] = "mmseg"

# Their import fills the registries, so that types are found before anything is built.
with quietly():
    import mmseg.datasets
    import mmseg.engine
    import mmseg.evaluation
    import mmseg.models
    import mmseg.visualization  # noqa: F401
    from mmseg.evaluation import IoUMetric
    from mmseg.models import SegDataPreProcessor


@MODELS.register_module()
class SegBandsPreprocessor(OfBands, SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` for images of many bands."""


@METRICS.register_module()
class SegmentationMetric(IoUMetric):
    """mmseg's ``IoUMetric``, which also names the classes that no label map has.

    Their IoU is undefined and no part of mIoU, or 0 where they are predicted: without
    them a model that knows one class alone has a mIoU of 100.
    """

    def compute_metrics(
        self, results: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    ) -> dict[str, float]:
        """Sum the areas of all images; percent."""
        if results:
            classes = self.dataset_meta["classes"]
            pixels = torch.stack([areas[3] for areas in results]).sum(0)  # as labelled
            absent = [c for c, n in zip(classes, pixels, strict=True) if not n]
            note_absent(absent, len(classes), "pixel", "mIoU")
        return super().compute_metrics(results)
