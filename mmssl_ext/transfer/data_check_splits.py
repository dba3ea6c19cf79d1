"""Compare the data sets of a config with each other, its metrics and its model."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

from .data_check_base import Findings, Source, listed, spread

NUM_SAMPLED = 300  # validation images that are looked for among the training images
NUM_HASHED = 2000  # so few training images are compared by content
_START = 4096  # bytes that tell most files apart

_COCO_METRICS = ("CocoMetric", "CocoDetectionMetric")


def check_splits(
    cfg: Any, loaders: dict[str, list[Source]], findings: Findings
) -> None:
    """Check what no data set shows alone.

    Args:
        cfg: The config.
        loaders: The data sets of each dataloader, which have been checked.
        findings: Receives problems and notices.
    """
    training = loaders.get("train_dataloader", [])
    _check_labels([s for sources in loaders.values() for s in sources], findings)
    for loader, sources in loaders.items():
        if loader == "train_dataloader":
            continue
        for metric in _metrics(cfg.get(f"{loader.partition('_')[0]}_evaluator")):
            for source in sources:
                _check_metric(metric, source, findings)
        _check_shared(training, sources, findings)
    _check_heads(cfg.get("model") or {}, training, findings)


def _check_labels(sources: list[Source], findings: Findings) -> None:
    """All data sets must give a class the same number."""
    known = [(source.place, source.labels) for source in sources if source.labels]
    for place, labels in known[1:]:
        first, expected = known[0]
        if labels != expected:
            findings.problem(
                place,
                f"The labels 0, 1, ... stand for {listed(labels, 20)}, but in {first} "
                f"for {listed(expected, 20)}. Give both the same classes in the same "
                "order.",
            )


def _metrics(node: Any) -> Iterator[dict]:
    for metric in node if isinstance(node, (list, tuple)) else [node]:
        if isinstance(metric, dict):
            yield metric
            yield from _metrics(metric.get("metrics"))


def _check_metric(metric: dict, source: Source, findings: Findings) -> None:
    """COCO's metrics read the truth from a file of their own."""
    kind = metric.get("type")
    kind = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    if kind not in _COCO_METRICS or not source.order or not metric.get("ann_file"):
        return
    path = source.path(source.cfg["ann_file"])
    if os.path.realpath(metric["ann_file"]) != os.path.realpath(path):
        findings.notice(
            source.place,
            f"The metric reads {metric['ann_file']}, the data set {path}: name the "
            "same file by ann_file of both.",
        )
        return
    scored = source.classes if kind == "CocoDetectionMetric" else source.order
    if scored and source.labels and scored != source.labels:
        findings.problem(
            source.place,
            f"{kind} takes the labels 0, 1, ... for {listed(scored, 20)}, the data set "
            f"for {listed(source.labels, 20)}. Use mmssl_ext.CocoDetectionDataset for "
            "training and validation and mmssl_ext.CocoDetectionMetric, which go by "
            "the names.",
        )


def _check_heads(model: Any, training: list[Source], findings: Findings) -> None:
    """The heads of a detector have an output for each class."""
    labels = next((s.labels for s in training if s.labels and s.order), None)
    roi_head = model.get("roi_head") or {}
    heads = {
        "bbox_head": model.get("bbox_head"),
        "roi_head.bbox_head": roi_head.get("bbox_head"),
        "roi_head.mask_head": roi_head.get("mask_head"),
    }
    for name, head in heads.items():
        for node in head if isinstance(head, (list, tuple)) else [head]:
            number = node.get("num_classes") if isinstance(node, dict) else None
            if labels and number is not None and number != len(labels):
                findings.problem(
                    "model",
                    f"{name}.num_classes is {number}, but the data have {len(labels)} "
                    f"classes: {listed(labels, 20)}.",
                )


def _check_shared(
    training: list[Source], sources: list[Source], findings: Findings
) -> None:
    """Images that are learnt from and scored as well."""
    learnt = [path for source in training for path in source.images]
    for source in sources:
        shared, looked = shared_images(learnt, source.images)
        if shared:
            first, other = shared[0]
            same = "" if first == other else f", which is {other}"
            findings.notice(
                source.place,
                f"{len(shared)} of {looked} images looked at are training images too, "
                f"the first is {first}{same}: the figures will be too good.",
            )


def shared_images(
    learnt: Sequence[str], scored: Sequence[str]
) -> tuple[list[tuple[str, str]], int]:
    """Images that occur in two sets, as the same file or as a copy.

    All are compared by their paths. For a sample it is asked whether a file of the same
    name, or where there are few, any file, has the same content.

    Returns:
        Pairs of the path in ``scored`` and in ``learnt``, and how many of ``scored``
        were looked at.
    """
    paths = {os.path.normpath(path) for path in learnt}
    same = [(path, path) for path in scored if os.path.normpath(path) in paths]
    if same or not paths:
        return same, len(scored)
    sample = spread(scored, NUM_SAMPLED)
    names = {os.path.basename(path) for path in sample}
    few = len(paths) <= NUM_HASHED
    candidates = (p for p in learnt if few or os.path.basename(p) in names)
    sizes = {_size(path) for path in sample}
    by_start = {
        _start(path): path
        for path in spread(list(candidates), NUM_HASHED)
        if _size(path) in sizes
    }
    pairs = [(path, by_start.get(_start(path), "")) for path in sample]
    copies = [
        (path, other)
        for path, other in pairs
        if other and filecmp.cmp(path, other, shallow=False)
    ]
    return copies, len(sample)


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return -1  # said elsewhere


def _start(path: str) -> tuple[int, bytes]:
    """Length of a file and hash of its beginning; unlike all others if unreadable."""
    try:
        with open(path, "rb") as file:
            return _size(path), hashlib.blake2b(file.read(_START)).digest()
    except OSError:
        return -1, path.encode(errors="surrogateescape")
