"""Average precision on PASCAL VOC, as the tables of pretraining papers mean it.

Those numbers come from detectron2's `PascalVOCDetectionEvaluator`. It computes the AP
of each class by the VOC rules at the IoU thresholds .50, .55, ... .95 and calls their
mean over thresholds and classes "AP". On VOC 2007 the AP is the 11-point one at every
threshold, so its AP50 is the classic 11-point mAP; on VOC 2012 it is the area under the
curve. COCO's own evaluator (101 points, another matching) would give other numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

Array = NDArray[Any]
Match = dict[str, Array]

THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


def match_image(
    boxes: Array,
    labels: Array,
    scores: Array,
    gt_boxes: Array,
    gt_labels: Array,
    difficult: Array,
) -> Match:
    """Find for every detection of an image the object that it overlaps most.

    By the VOC rules that is the only object which it may match.

    Args:
        boxes: n x 4, corners as continuous coordinates, so a width is x2 - x1.
        labels: n.
        scores: n.
        gt_boxes: m x 4.
        gt_labels: m.
        difficult: m, objects that count neither as found nor as missed.

    Returns:
        ``label``, ``score``, ``iou`` and ``object`` (index of the object, of the same
        class) of each detection; ``gt_label`` and ``gt_difficult`` of each object.
    """
    overlap: Array = np.zeros((len(boxes), max(len(gt_boxes), 1)))  # n x m
    if len(gt_boxes):
        one, other = (torch.from_numpy(x.astype(np.float64)) for x in (boxes, gt_boxes))
        overlap = box_iou(one, other).nan_to_num().numpy()  # NaN of two empty boxes
        overlap *= labels[:, None] == gt_labels
    return {
        "label": labels,
        "score": scores,
        "iou": overlap.max(1),
        "object": overlap.argmax(1),
        "gt_label": gt_labels,
        "gt_difficult": difficult.astype(bool),
    }


def average_precisions(
    matches: list[Match], num_classes: int, eleven_points: bool
) -> NDArray[np.float64]:
    """AP of every class at every threshold.

    Args:
        matches: :func:`match_image` of all images.
        num_classes: Number of classes C.
        eleven_points: The mean of the best precisions at recall 0, .1, ... 1 (VOC 2007)
            instead of the area under the curve (VOC 2010 and later).

    Returns:
        C x 10 in [0, 1]; NaN for a class without objects that are not difficult.
    """
    starts = np.cumsum([0] + [len(match["gt_label"]) for match in matches])
    objects = [m["object"] + s for m, s in zip(matches, starts[:-1], strict=True)]
    owner = np.concatenate([np.zeros(0, int), *objects])
    label, score, iou, gt_label, gt_difficult = (
        np.concatenate([np.zeros(0), *(match[name] for match in matches)])
        for name in ("label", "score", "iou", "gt_label", "gt_difficult")
    )
    easy = np.append(gt_difficult == 0, True)  # an image may be without objects
    result = np.full((num_classes, len(THRESHOLDS)), np.nan)
    for c in range(num_classes):
        num_objects = int((easy[:-1] & (gt_label == c)).sum())
        if not num_objects:
            continue
        own = np.flatnonzero(label == c)
        own = own[np.argsort(-score[own], kind="stable")]
        for t, threshold in enumerate(THRESHOLDS):
            hit = iou[own] > threshold
            ignored = hit & ~easy[owner[own]]
            candidates = np.flatnonzero(hit & ~ignored)
            # The best detection of an object finds it, all others are wrong.
            _, first = np.unique(owner[own][candidates], return_index=True)
            found = np.zeros(len(own), bool)
            found[candidates[first]] = True
            counted = found[~ignored]
            result[c, t] = _average_precision(counted, num_objects, eleven_points)
    return result


def _average_precision(found: Array, num_objects: int, eleven_points: bool) -> float:
    """AP from the hits among the detections, best first."""
    hits = np.cumsum(found)
    precision = hits / np.arange(1, len(hits) + 1)
    if eleven_points:
        # In integers: 3 of 10 objects are a recall of .3, whatever 0.1 * 3 is.
        reached = [precision[10 * hits >= point * num_objects] for point in range(11)]
        return float(sum(best.max() for best in reached if len(best)) / 11)
    # The best precision at this recall or a higher one, times the step of recall.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[found.astype(bool)].sum() / num_objects)
