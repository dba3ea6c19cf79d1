"""The features of a folder of images."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.device import get_device
from torch import nn

from mmssl_ext.errors import UserError
from mmssl_ext.fit import pooled

from .backbone import check_size, load_backbone
from .images import (
    Images,
    check_count,
    default_workers,
    open_images,
    path_of,
    read_images,
)
from .table import check_out, write_features

__all__ = ["Embeddings", "embed"]

KINDS = (".npz", ".csv", ".parquet")
_BATCH = {"cuda": 128}  # images; 32 elsewhere


class Embeddings(NamedTuple):
    """What :func:`embed` returns: n images that could be read, in stable order.

    Attributes:
        features: n x C, float32, not normalised.
        paths: Of each row, as they are found from the working directory; of an image in
            a shard, the shard's path and its name there.
        labels: Class of each row, n, int64, or None.
        classes: Names of the classes; empty without labels.
        unreadable: Path of each other image, and why it cannot be read.
    """

    features: np.ndarray
    paths: list[str]
    labels: np.ndarray | None
    classes: tuple[str, ...]
    unreadable: list[tuple[str, str]]


def embed(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    size: int | None = None,
    encoder: str = "query",
    device: str | None = None,
) -> Embeddings:
    """Compute the globally pooled features of the backbone for each of many images.

    Images of any size and in any format that this package reads are prepared as
    ``load_backbone(checkpoint).preprocess`` does it. They are read and dropped batch by
    batch, so only the features and the names grow with their number.

    Args:
        checkpoint: As for :func:`load_backbone`, like ``encoder``.
        data: A folder (any depth; the folders of its first level are the labels where
            all images lie in such), a folder of shards, or a text list of images, from
            its folder on, with or without labels.
        out: File to write besides, whole or not at all, by its ending: ``.npz`` (arrays
            ``features``, ``paths``, ``labels``, -1 without, and ``classes``), ``.csv``
            (columns ``path``, ``label`` where there are labels, ``f0``, ``f1``, ...) or
            ``.parquet`` (``path``, ``label``, ``features``; names are bytes where one
            of them is no UTF-8).
        batch_size: Images in a step; None for 128 on a GPU, 32 on a CPU.
        workers: Processes that read images; None for one per processor beside a GPU,
            else one per two processors, 8 at most.
        size: Pixels of a side; None for 224.
        encoder: ``query`` or ``key``.
        device: Such as ``cuda:1`` or ``cpu``; None for a GPU where there is one.

    Raises:
        UserError: The checkpoint, the data or an option cannot be used, or no image can
            be read.
        FileNotFoundError: There is no such data.
    """
    path = None if out is None else check_out(out, KINDS)
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
        ("size", size, 1),
    ):
        if value is not None:
            check_count(name, value, least)
    place = _device(device)
    images = open_images(data)
    backbone = load_backbone(checkpoint, encoder)
    if size is not None:
        check_size(backbone, size)
    found = _run(backbone, images, batch_size, workers, size, place)
    if path is not None:
        write_features(path, *found[:4])
    return found


@torch.inference_mode()
def _run(
    backbone: nn.Module,
    images: Images,
    batch_size: int | None,
    workers: int | None,
    size: int | None,
    device: torch.device,
) -> Embeddings:
    preprocess: Any = backbone.preprocess
    preprocess = replace(preprocess, size=size or preprocess.size)
    on_gpu = device.type == "cuda"
    layout = torch.channels_last if on_gpu else torch.contiguous_format
    backbone.to(device, memory_format=layout)  # type: ignore[call-overload]
    dataset, labels, classes = images
    features = np.empty((len(dataset), int(backbone.out_channels)), np.float32)  # type: ignore[arg-type]
    rows: list[int] = []
    unreadable: list[tuple[str, str]] = []
    if workers is None:  # on a CPU the network needs processors, too
        workers = default_workers(len(dataset), 1.0 if on_gpu else 0.5)
    batch_size = batch_size or _BATCH.get(device.type, 32)
    for batch in read_images(
        dataset, preprocess.pixels, batch_size, workers, "Embedded"
    ):
        unreadable += [(path_of(dataset, row), why) for row, why in batch.failed]
        if batch.rows:
            values = batch.values.to(device, non_blocking=on_gpu)
            output = pooled(backbone(preprocess.normalise(values)))  # N x C
            end = len(rows) + len(batch.rows)
            features[len(rows) : end] = output.float().cpu().numpy()
            rows += batch.rows
    return Embeddings(
        features[: len(rows)],
        [path_of(dataset, row) for row in rows],
        None if labels is None else labels[rows],
        classes,
        unreadable,
    )


def _device(name: str | None) -> torch.device:
    """The device of a name.

    Raises:
        UserError: There is none.
    """
    try:
        device = torch.device(name or get_device())
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise UserError(f"There is no device={name!r} here ({reason}).") from error
    return device
