"""Compare the data sets of a config with each other, its metrics and its model."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from mmssl_ext.datasets.file_copies import MOST_FILES, copied_files

from .source import Findings, Source, listed, spread

NUM_SAMPLED = 300  # validation images that are looked for among the training images

_COCO_METRICS = ("CocoMetric", "CocoDetectionMetric")


def check_splits(
    cfg: Any, loaders: dict[str, list[Source]], findings: Findings
) -> None:
    """Check what no data set shows alone.

    Args:
        cfg: The config.
        loaders: The data sets of each dataloader, which have been checked.
        findings: Receives what is wrong with the model.
    """
    training, *others = loaders.values()
    _check_labels([source for sources in loaders.values() for source in sources])
    for part, sources in zip(("val", "test"), others, strict=True):
        # Test data that are the validation data have been checked as these.
        for metric in _metrics(cfg.get(f"{part}_evaluator")):
            for source in sources or others[0]:
                _check_metric(metric, source)
        _check_shared(training, sources)
    labels = next((s.labels for s in training if s.labels and s.order), None)
    for name, number in _heads(cfg.get("model") or {}) if labels else ():
        if labels and number not in (None, len(labels)):
            sentence = (
                f"{name}.num_classes is {number}, but the data have {len(labels)} "
                f"classes: {listed(labels, 20)}."
            )
            findings[logging.ERROR, sentence] = ["model"]


def _check_labels(sources: list[Source]) -> None:
    """All data sets must give a class the same number."""
    for source in sources:
        counts = Counter(source.classes)
        if twice := [name for name, number in counts.items() if number > 1]:
            source.problem(f"`classes` names {listed(twice)} twice.")
    known = [(source, source.labels) for source in sources if source.labels]
    for source, labels in known[1:]:
        first, expected = known[0]
        if labels != expected:
            source.problem(
                f"The labels 0, 1, ... stand for {listed(labels, 20)}, but in "
                f"{first.place} for {listed(expected, 20)}. Give both the same classes "
                "in the same order."
            )


def _metrics(node: Any) -> Iterator[dict]:
    for metric in node if isinstance(node, (list, tuple)) else [node]:
        if isinstance(metric, dict):
            yield metric
            yield from _metrics(metric.get("metrics"))


def _check_metric(metric: dict, source: Source) -> None:
    """COCO's metrics read the truth from a file of their own."""
    kind = metric.get("type")
    kind = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    if kind not in _COCO_METRICS or not source.order or not metric.get("ann_file"):
        return
    path = source.ann_file
    if os.path.realpath(metric["ann_file"]) != os.path.realpath(path):
        source.notice(
            f"The metric reads {metric['ann_file']}, the data set {path}: name the "
            "same file by ann_file of both."
        )
        return
    scored = source.classes if kind == "CocoDetectionMetric" else source.order
    if scored and source.labels and scored != source.labels:
        source.problem(
            f"{kind} takes the labels 0, 1, ... for {listed(scored, 20)}, the data set "
            f"for {listed(source.labels, 20)}. Use mmssl_ext.CocoDetectionDataset for "
            "training and validation and mmssl_ext.CocoDetectionMetric, which go by "
            "the names."
        )


def _heads(model: Any) -> Iterator[tuple[str, int | None]]:
    """The heads of a detector, and for how many classes they have an output."""
    for name in ("bbox_head", "roi_head.bbox_head", "roi_head.mask_head"):
        head: Any = model
        for key in name.split("."):
            head = (head or {}).get(key)
        for node in head if isinstance(head, (list, tuple)) else [head]:
            if isinstance(node, dict):
                yield name, node.get("num_classes")


def _check_shared(training: list[Source], sources: list[Source]) -> None:
    """Images that are learnt from and scored as well."""
    learnt = [path for source in training for path in source.images]
    for source in sources:
        shared, looked = shared_images(learnt, source.images)
        if shared:
            first, other = shared[0]
            same = "" if first == other else f", which is {other}"
            source.notice(
                f"{len(shared)} of {looked} images looked at are training images too, "
                f"the first is {first}{same}: the figures will be too good."
            )


def shared_images(
    learnt: Sequence[str], scored: Sequence[str]
) -> tuple[list[tuple[str, str]], int]:
    """Images that occur in two sets, as the same file or as a copy.

    All are compared by their paths. Then files are compared by content; of large sets
    only a sample, with the files of the same name.

    Returns:
        Pairs of the path in ``scored`` and in ``learnt``, and how many of ``scored``
        were looked at.
    """
    paths = {os.path.normpath(path) for path in learnt}
    same = [(path, path) for path in scored if os.path.normpath(path) in paths]
    if same or not paths:
        return same, len(scored)
    if len(learnt) + len(scored) > MOST_FILES:
        scored = spread(scored, NUM_SAMPLED)
        names = {os.path.basename(path) for path in scored}
        learnt = [path for path in learnt if os.path.basename(path) in names]
    return copied_files(scored, spread(learnt, MOST_FILES))
