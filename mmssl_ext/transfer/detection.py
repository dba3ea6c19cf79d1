"""Our parts of a detector; a config names this module in ``custom_imports``."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from mmcv.cnn import build_norm_layer
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.imports import quietly
from mmssl_ext.registry import DATASETS, METRICS, MODELS

from . import ops
from .absent import note_absent
from .bands import OfBands
from .voc_metric import THRESHOLDS, Match, average_precisions, match_image

_IMGAUG = (
    *("imgaug", "imgaug.augmenters", "imgaug.augmentables"),
    *("imgaug.augmentables.lines", "imgaug.augmentables.segmaps"),
)


@contextlib.contextmanager
def _spare_imgaug() -> Iterator[None]:
    """Let mmdet's data sets import where imgaug is not installed.

    Only transforms of lane lines use it, and it brings another OpenCV and scikit-image.
    """
    names = () if importlib.util.find_spec("imgaug") else _IMGAUG
    for name in names:
        sys.modules[name] = _Absent(name)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Absent(ModuleType):
    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


ops.install()  # mmdet does not import without mmcv's ops
with quietly(), _spare_imgaug():
    from mmdet.datasets import VOCDataset
    from mmdet.models import DetDataPreprocessor
    from mmdet.models.backbones import ResNet
    from mmdet.models.layers import ResLayer

    from .coco import (
        CityscapesDetectionDataset,
        CocoDetectionDataset,
        CocoDetectionMetric,
    )

__all__ = [
    "CityscapesDetectionDataset",
    "CocoDetectionDataset",
    "CocoDetectionMetric",
    "DetBandsPreprocessor",
    "ResLayerExtraNorm",
    "VOCDetectionDataset",
    "VOCDetectionMetric",
]


@MODELS.register_module()
class DetBandsPreprocessor(OfBands, DetDataPreprocessor):
    """mmdet's ``DetDataPreprocessor`` for images of many bands."""


@MODELS.register_module()
class ResLayerExtraNorm(BaseModule):
    """The last stage of a ResNet as shared RoI head, and one more norm layer.

    The C4 detector of MoCo (arXiv 1911.05722, appendix B): features that end in a ReLU
    are larger after self-supervised than after supervised pretraining, the norm layer
    makes up for it. The source has no such layer, so give
    ``init_cfg=dict(type="mmssl_ext.PretrainedBackbone", absent=("norm",), ...)``.

    Args:
        depth: Of the whole ResNet: 18, 34, 50, 101.
        base_channels: Channels of its first stage.
        norm_cfg: Type of all norm layers, the extra one included.
        init_cfg: Initialization; ``None`` is random.
    """

    def __init__(
        self,
        depth: int,
        base_channels: int = 64,
        norm_cfg: dict = {"type": "BN"},  # noqa: B006
        init_cfg: dict | list | None = None,
    ) -> None:
        random = [
            {"type": "Kaiming", "layer": "Conv2d"},
            {"type": "Constant", "val": 1, "layer": "_BatchNorm"},
        ]
        super().__init__(init_cfg or random)
        block, num_blocks = ResNet.arch_settings[depth]
        planes = base_channels * 8
        self.layer4 = ResLayer(
            block,
            inplanes=planes // 2 * block.expansion,
            planes=planes,
            num_blocks=num_blocks[3],
            stride=2,
            style="pytorch",
            norm_cfg=norm_cfg,
        )
        _, self.norm = build_norm_layer(norm_cfg, planes * block.expansion)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W of the third stage to N x 2C x H/2 x W/2."""
        return self.norm(self.layer4(x))


@DATASETS.register_module()
class VOCDetectionDataset(VOCDataset):
    """PASCAL VOC as detectron2 reads it.

    Boxes are continuous: pixels 1 to W, both inclusive, become the interval [0, W],
    where mmdet's own class gives [0, W - 1]. Difficult objects take part in training;
    mmdet's own class has them count as background. In evaluation they are ignored.

    Args:
        img_suffix: File name ending of the images; mmdet's own class knows ``.jpg``.
        **kwargs: As for mmdet's ``VOCDataset``.
    """

    def __init__(self, img_suffix: str = ".jpg", **kwargs: Any) -> None:
        self.img_suffix = img_suffix
        super().__init__(**kwargs)

    def parse_data_info(self, img_info: dict) -> Any:
        """As mmdet's, of the image with the suffix and with continuous boxes."""
        name = img_info["file_name"].removesuffix(".jpg") + self.img_suffix
        info: Any = super().parse_data_info({**img_info, "file_name": name})
        for instance in info["instances"]:
            x1, y1, x2, y2 = instance["bbox"]  # of pixels, counted from 0
            instance["bbox"] = [x1, y1, x2 + 1, y2 + 1]
            if not self.test_mode:
                instance["ignore_flag"] = 0
        return info


@METRICS.register_module()
class VOCDetectionMetric(BaseMetric):
    """AP of the published VOC tables, in percent; defined in ``voc_metric``.

    Reports ``voc/AP`` (mean over the IoU thresholds .50 to .95), ``voc/AP50``,
    ``voc/AP75`` and ``voc/AP50_11point``. Expects the boxes of
    :class:`VOCDetectionDataset`.

    A class without objects, but for difficult ones, has no AP: it is left out of the
    means, and the log says so. detectron2 would report NaN for all. It also rounds
    scores to 3 decimals and boxes to 0.1 pixels before it sorts them; we do not.

    Args:
        eval_mode: ``"11points"`` (VOC 2007) or ``"area"`` (VOC 2010 and later) for AP,
            AP50 and AP75.
        collect_device: Where results of the ranks are gathered.
        prefix: Of the names of the results.

    Raises:
        ValueError: ``eval_mode`` is neither.
    """

    default_prefix = "voc"

    def __init__(
        self,
        eval_mode: str = "11points",
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if eval_mode not in ("11points", "area"):
            raise UserValueError(
                f"eval_mode is '11points' or 'area', not {eval_mode!r}."
            )
        self.eval_mode = eval_mode

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Match the detections of a batch."""
        for sample in data_samples:
            found, given, ignored = (
                {name: value.cpu().numpy() for name, value in sample[part].items()}
                for part in ("pred_instances", "gt_instances", "ignored_instances")
            )
            num_easy, num_difficult = len(given["labels"]), len(ignored["labels"])
            self.results.append(
                match_image(
                    found["bboxes"],
                    found["labels"],
                    found["scores"],
                    np.concatenate([given["bboxes"], ignored["bboxes"]]),
                    np.concatenate([given["labels"], ignored["labels"]]),
                    np.repeat([False, True], [num_easy, num_difficult]),
                )
            )

    def compute_metrics(self, results: list[Match]) -> dict[str, float]:
        """Means over the classes; logs the table of the classes."""
        classes = self.dataset_meta["classes"]
        per_class = {
            mode: 100 * average_precisions(results, len(classes), mode == "11points")
            for mode in ("11points", "area")
        }
        ap = per_class[self.eval_mode]
        self._log(classes, results, ap)
        at50, at75 = THRESHOLDS.index(0.5), THRESHOLDS.index(0.75)
        present = ~np.isnan(ap[:, 0])

        def mean(values: np.ndarray) -> float:
            return float(values[present].mean()) if present.any() else float("nan")

        return {
            "AP": mean(ap),
            "AP50": mean(ap[:, at50]),
            "AP75": mean(ap[:, at75]),
            "AP50_11point": mean(per_class["11points"][:, at50]),
        }

    def _log(self, classes: Sequence[str], results: list[Match], ap: Any) -> None:
        labels = [match["gt_label"][~match["gt_difficult"]] for match in results]
        objects, found = (
            np.bincount(np.concatenate([np.zeros(0, int), *x]), minlength=len(classes))
            for x in (labels, [match["label"] for match in results])
        )
        width = max(5, *map(len, classes))
        row = f"{{:{width}}} {{:>8}} {{:>10}} {{:>6}} {{:>6}} {{:>6}}"
        lines = [row.format("class", "objects", "detections", "AP", "AP50", "AP75")]
        for c, name in enumerate(classes):
            values = [f"{v:.1f}" for v in (ap[c].mean(), ap[c, 0], ap[c, 5])]
            lines.append(row.format(name, objects[c], found[c], *values))
        logger = MMLogger.get_current_instance()
        logger.info(f"VOC AP ({self.eval_mode}, percent):\n" + "\n".join(lines))
        absent = [name for c, name in enumerate(classes) if np.isnan(ap[c, 0])]
        note_absent(absent, len(classes), "object", "AP")
