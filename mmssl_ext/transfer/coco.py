"""COCO's annotations, with classes known by their names; ``detection`` imports this.

mmdet numbers the classes in the order in which an annotation file lists its categories:
where two files differ in this, a detector that learns from the one is scored by the
numbers of the other. Here the number of a class is its place in ``classes``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from numbers import Integral
from typing import Any

from mmdet.datasets import CityscapesDataset, CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger

from mmssl_ext.compat import coco_evaluation, ground_truth
from mmssl_ext.errors import ConfigError
from mmssl_ext.registry import DATASETS, METRICS

from .absent import note_absent


class _NamedCOCO(COCO):
    """Looks categories up by name, in the order of the names that are asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its steps
            super().__init__(*args, **kwargs)

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), *args: Any, **kwargs: Any
    ) -> list[Any]:
        """Return an id for each name, ``None`` where the file has no such category."""
        if not cat_names:
            return list(super().get_cat_ids(cat_names, *args, **kwargs))
        ids = {str(c["name"]): c["id"] for c in self.dataset["categories"]}
        return [ids.get(name) for name in cat_names]


@DATASETS.register_module()
class CocoDetectionDataset(CocoDataset):
    """mmdet's ``CocoDataset`` with label i for the i-th of ``classes``.

    The order of the categories in the annotation file does not matter, and a class that
    the file does not list keeps its number.
    """

    COCOAPI = _NamedCOCO


@DATASETS.register_module()
class CityscapesDetectionDataset(CityscapesDataset):
    """mmdet's ``CityscapesDataset`` with label i for the i-th of ``classes``."""

    COCOAPI = _NamedCOCO


@METRICS.register_module()
class CocoDetectionMetric(CocoMetric):
    """mmdet's ``CocoMetric``, but label i is the i-th of ``classes``.

    Besides, a model that detects nothing has AP 0, where mmdet reports no metric at
    all. Of a data set that was cut short (``indices``) the images that were seen count;
    the log says how many, and which classes have no object and hence no part in the AP.
    Annotations without ``iscrowd``, or with null, count as 0, and any ids of
    annotations will do: pycocotools takes the id 0 for "not found".

    Args:
        *args: Of mmdet's ``CocoMetric``.
        faster: Evaluate by the package faster-coco-eval, which counts in C++: the same
            figures in a part of the time, but for the mAP of ``proposal_nums`` without
            100, which pycocotools gives as -1. Sets whose ids are texts are left to
            pycocotools.
        **kwargs: Of mmdet's ``CocoMetric``.

    Raises:
        ConfigError: faster-coco-eval is asked for and not installed.
    """

    _ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
    _ids: list[Any] | None = None  # of the categories, in the order of the labels

    def __init__(self, *args: Any, faster: bool = False, **kwargs: Any) -> None:
        self.faster = faster
        if faster and find_spec("faster_coco_eval") is None:
            raise ConfigError(
                "val_evaluator.faster=True needs the package faster-coco-eval: pip "
                "install 'mmssl_ext[coco]'."
            )
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(*args, **kwargs)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Evaluate; fractions, as mmdet's."""
        logger = MMLogger.get_current_instance()
        seen = sorted({predicted["img_id"] for _, predicted in results})
        self.img_ids = None
        if (api := ground_truth(self)) is not None:
            if len(seen) < len(api.imgs):
                self.img_ids = seen
                logger.info(f"Evaluated on {len(seen)} of {len(api.imgs)} images.")
            if self._ids is None:
                self._ids = _complete(api, self.dataset_meta["classes"])
            # mmdet's table of classes expects them as pycocotools sorts them.
            self.cat_ids = sorted(self._ids)
            self._name_absent(api, seen, self._ids)
        with coco_evaluation(_faster() if self._is_fast(api, seen) else None):
            found = super().compute_metrics(results)
        if any(len(predicted["scores"]) for _, predicted in results):
            return found
        logger.warning("Nothing was detected: every AP is 0.")
        items = self.metric_items or self._ITEMS
        return {f"{metric}_{item}": 0.0 for metric in self.metrics for item in items}

    def _is_fast(self, api: COCO | None, seen: list) -> bool:
        """Whether faster-coco-eval can and shall evaluate."""
        if not self.faster:
            return False
        if all(isinstance(x, Integral) for x in (*seen, *(api.cats if api else ()))):
            return True
        MMLogger.get_current_instance().warning(
            "faster-coco-eval takes whole numbers alone as ids of images and "
            "categories; pycocotools evaluates this set."
        )
        return False

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        """Write the detections, each with the id that the file gives to its class."""
        by_id, self.cat_ids = self.cat_ids, self._ids or self.cat_ids
        try:
            return super().results2json(results, outfile_prefix)
        finally:
            self.cat_ids = by_id

    def _name_absent(self, api: COCO, seen: list, ids: list) -> None:
        found = (a for image in seen for a in api.imgToAnns.get(image, ()))
        present = {a["category_id"] for a in found if not a["iscrowd"]}
        classes = self.dataset_meta["classes"]
        named = zip(classes, ids, strict=True)
        absent = [name for name, number in named if number not in present]
        note_absent(absent, len(classes), "object", "AP")


def _faster() -> Any:
    from faster_coco_eval.core import COCOeval_faster

    return COCOeval_faster


def _complete(api: COCO, classes: Sequence[str]) -> list[Any]:
    """Fill in what pycocotools needs; return the id of each class."""
    categories = api.dataset["categories"]
    ids = {str(category["name"]): category["id"] for category in categories}
    numbers = [i for i in ids.values() if isinstance(i, (int, float))]
    for i, name in enumerate(n for n in classes if n not in ids):
        # pycocotools sorts the ids, so they must be of one kind.
        ids[name] = max(numbers, default=0) + 1 + i if numbers else f"absent {i}"
        categories.append({"id": ids[name], "name": name})
    for number, annotation in enumerate(api.dataset.get("annotations", ()), 1):
        annotation["id"] = number
        annotation["iscrowd"] = annotation.get("iscrowd") or 0  # it may be null
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return [ids[name] for name in classes]
