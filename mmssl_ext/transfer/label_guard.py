"""Name the file when a label map has a label for which there is no class.

The loss would end in an IndexError, on a GPU in an assertion of the device, and name
nothing; the metric would leave the pixels out without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmssl_ext.datasets.transforms.decode import UnreadableImageError
from mmssl_ext.registry import TRANSFORMS


class LabelRangeError(UnreadableImageError):
    """A label map cannot be used; the message is a sentence."""


@TRANSFORMS.register_module()
class CheckLabels:
    """Refuse labels that are neither those of classes nor ignored, and other sizes.

    Reads ``results["gt_seg_map"]`` (H x W) where there is one, as it comes from mmseg's
    ``LoadAnnotations``, and changes nothing. It must have the height and width of
    ``results["ori_shape"]``.

    Args:
        num_classes: Number of classes C: labels are 0 to C - 1.
        ignore_index: One more label that may occur.

    Raises:
        LabelRangeError: Names the file and the labels.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __call__(self, results: dict) -> dict:
        """Look at every pixel of a label map."""
        labels, shape = results.get("gt_seg_map"), results.get("ori_shape")
        if labels is None:
            return results
        file = f"The label map '{results.get('seg_map_path')}'"
        if shape is not None and labels.shape != shape[:2]:
            sides = [*labels.shape[1::-1], *labels.shape[2:]]
            raise LabelRangeError(
                f"{file} is {' x '.join(map(str, sides))} large, but its image "
                f"'{results.get('img_path')}' {shape[1]} x {shape[0]}. A label map has "
                "one number for each pixel of its image."
            )
        if not labels.size or labels.max() < self.num_classes:
            return results  # as nearly all
        wrong = (labels >= self.num_classes) & (labels != self.ignore_index)
        if found := np.unique(labels[wrong]).tolist():
            reduced = results.get("reduce_zero_label")
            when = " after reduce_zero_label" if reduced else ""
            raise LabelRangeError(
                f"{file} holds the labels {', '.join(map(str, found[:8]))}{when}, "
                f"but {self.num_classes} classes have the numbers 0 to "
                f"{self.num_classes - 1} and {self.ignore_index} is ignored. Correct "
                "it, or `classes`."
            )
        return results


def guard_labels(cfg: Any) -> None:
    """Let the pipelines of a segmentation config check what they load, in place."""
    head: Any = (cfg.get("model") or {}).get("decode_head")
    head = head[-1] if isinstance(head, (list, tuple)) and head else head
    number = head.get("num_classes") if isinstance(head, dict) else None
    if cfg.get("default_scope") != "mmseg" or not number:
        return
    step = {
        "type": "mmssl_ext.CheckLabels",
        "num_classes": number,
        "ignore_index": head.get("ignore_index", 255),
    }
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        _insert((cfg.get(loader) or {}).get("dataset"), step)


def _insert(node: Any, step: dict) -> None:
    """Put the step behind every step that loads label maps."""
    if isinstance(node, dict):
        for value in node.values():
            _insert(value, step)
    elif isinstance(node, list):
        types = [n.get("type") if isinstance(n, dict) else None for n in node]
        for i in reversed(range(len(node))):
            _insert(node[i], step)
            name = str(getattr(types[i], "__name__", types[i])).rpartition(".")[2]
            if name == "LoadAnnotations" and types[i + 1 : i + 2] != [step["type"]]:
                node.insert(i + 1, dict(step))
