"""Near-identical images in a folder, or of two folders.

By default images are compared by a perceptual hash of 256 bits (``imagehash.phash`` of
the upright image), which re-encoding, another size and another brightness hardly
change. Of the 364 photographs of blood cells of BCCD, copies that were re-encoded at
quality 30, halved, doubled, made brighter or gray differ from the original in at most 8
bits, such of which 2 % were cut off each side in 32 (median) to 52; of all 66,066 pairs
of different photographs one, two shots of one field, differs in 24 bits and every other
in 90 or more. Of 1,500 drawn scenes no two differ in less than 58. So the default is
32.

With a checkpoint they are compared by the cosine similarity of its features. Its scale
depends on the network. By an EfficientNet-Lite0 trained on ImageNet, of 180 of these
photographs no two different ones (16,110 pairs) are nearer than 0.057, doubled copies
are within 0.001, such with 2 % cut off within 0.02 (median) to 0.044, those of quality
30 beyond 0.1; by a ResNet-18 after three epochs most are within 0.02. So the
default is 0.02: look at the distances that are listed, and set ``distance``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmssl_ext.datasets import DecodeImage
from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.files import path_named

from .images import check_count, open_images, path_of, read_images
from .table import check_out, write_csv

__all__ = ["Duplicates", "Pair", "duplicates"]

HASH_DISTANCE = 32  # of 256 bits
COSINE_DISTANCE = 0.02
_SIDE = 16  # of the hash: its square are the bits
_BLOCK = 1 << 24  # similarities that are in memory at once, 64 MB


# Names and unit vectors, n x C, of the images, and which cannot be read, and why.
Found = tuple[list[str], np.ndarray, list[tuple[str, str]]]


class Pair(NamedTuple):
    """An image and the one that it is near to.

    Attributes:
        path: The image: the later one of a folder, or the one of the other folder.
        twin: The nearest one before it, or of the first folder.
        distance: Bits of the hash that differ, or 1 - cosine similarity.
    """

    path: str
    twin: str
    distance: float


class Duplicates(NamedTuple):
    """What :func:`duplicates` returns.

    Attributes:
        pairs: One for each image that has a near one, in the order of the images.
        groups: The same as groups: first the image that stays, then its copies.
        unreadable: Path of each image that cannot be read, and why.
    """

    pairs: list[Pair]
    groups: list[list[str]]
    unreadable: list[tuple[str, str]]


def duplicates(
    folder: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    distance: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    encoder: str = "query",
    workers: int | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Duplicates:
    """Find images that are nearly identical.

    They are compared by a perceptual hash or, with a checkpoint, by the features of its
    backbone; see the head of this module for what the distances mean.

    Each image is compared with all before it (or all of the first folder), in blocks,
    and only its nearest one is kept: 100,000 images need 100 MB and some minutes.

    Args:
        folder: The images, as for :func:`embed`.
        other: Images to compare with those of ``folder``, not with each other, such as
            a validation set with the training set. None: those of ``folder`` with each
            other.
        distance: Largest one of a pair: bits of 256, 32 by default; with a checkpoint 1
            - cosine similarity, 0.02 by default.
        checkpoint: As for :func:`load_backbone`, like ``encoder``.
        encoder: ``query`` or ``key``.
        workers: As for :func:`embed`.
        out: File to write besides, ``.csv``: columns ``path``, ``twin``, ``distance``,
            ``group`` (its number, from 0).

    Raises:
        UserError: The package imagehash is missing, or as :func:`embed`.
        FileNotFoundError: There is no such folder.
    """
    path_named("folder", folder)
    if other is not None:
        path_named("other", other)
    path = None if out is None else check_out(out, (".csv",))
    if workers is not None:
        check_count("workers", workers, 0)
    limit = _limit(distance, checkpoint is not None)
    if checkpoint is None:
        _require_imagehash()
    sets = []
    for data in (folder,) if other is None else (folder, other):
        if checkpoint is None:
            sets.append(_hashes(data, workers))
        else:
            sets.append(_features(checkpoint, data, encoder, workers))
    result, groups = _compared(sets, limit, checkpoint is None)
    if path is not None:
        lines = ((*pair, n) for pair, n in zip(result.pairs, groups, strict=True))
        write_csv(path, ("path", "twin", "distance", "group"), lines)
    return result


def _compared(
    sets: list[Found], limit: float, by_hash: bool
) -> tuple[Duplicates, list[int]]:
    """The result for one or two sets, and the number of each pair's group."""
    (names, rows, _), (later, others, _) = sets[0], sets[-1]
    among = len(sets) == 1
    # Hashes differ by half as many bits times what unit vectors do, 1 - similarity.
    scale = rows.shape[1] / 2 if by_hash else 1.0
    found = [
        (i, j, scale * max(0.0, 1 - similarity))
        for i, j, similarity in nearest(
            None if among else others, rows, 1 - limit / scale
        )
    ]
    pairs = [Pair(later[i], names[j], distance) for i, j, distance in found]
    groups = _groups(found, among)
    listed: dict[int, list[str]] = {}
    for pair, group in zip(pairs, groups, strict=True):
        listed.setdefault(group, [pair.twin]).append(pair.path)
    unreadable = [x for _, _, failed in sets for x in failed]
    return Duplicates(pairs, list(listed.values()), unreadable), groups


def nearest(
    rows: np.ndarray | None, known: np.ndarray, least: float
) -> Iterator[tuple[int, int, float]]:
    """The nearest of the known vectors for each row that has a near one.

    Args:
        rows: n x C, unit vectors; None for the known ones, each compared with those
            before it.
        known: m x C, unit vectors.
        least: The smallest similarity of near ones.

    Yields:
        Number of the row, of the nearest known vector (the first of equal ones), and
        their similarity.
    """
    among = rows is None
    rows = known if rows is None else rows
    step = max(1, _BLOCK // max(len(known), 1))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        end = start + len(block) if among else len(known)
        similarities = block @ known[:end].T
        if among:
            # Of the block itself only what comes before a row counts.
            own = similarities[:, start:]
            own[np.triu_indices_from(own)] = -2.0
        best = similarities.argmax(1)
        values = similarities[np.arange(len(block)), best]
        for i in np.flatnonzero(values >= least - 1e-6).tolist():
            yield start + i, int(best[i]), float(values[i])


def _limit(distance: float | None, by_features: bool) -> float:
    most = 2.0 if by_features else float(_SIDE**2)
    if distance is None:
        return COSINE_DISTANCE if by_features else HASH_DISTANCE
    if not 0 <= distance < most:
        what = "1 - cosine similarity" if by_features else "a number of bits"
        raise UserValueError(
            f"distance={distance!r} must be {what}, from 0 and below {most:g}."
        )
    return distance


def _require_imagehash() -> None:
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Comparing images by their hashes needs the package imagehash: pip install "
            '"mmssl_ext[duplicates]", or give a checkpoint to compare by its features.'
        ) from error


def _hashes(data: str | os.PathLike[str], workers: int | None) -> Found:
    """Names, hashes as unit vectors, n x 256, and what cannot be read."""
    dataset = open_images(data).dataset
    rows: list[int] = []
    values, failed = [], []
    for batch in read_images(dataset, _hash, 32, workers, "Read"):
        failed += [(path_of(dataset, row), why) for row, why in batch.failed]
        if batch.rows:
            values.append(batch.values.numpy())
            rows += batch.rows
    signs = np.concatenate(values).astype(np.float32)
    signs = (2 * signs - 1) / np.float32(_SIDE)  # a power of two: sums stay exact
    return [path_of(dataset, row) for row in rows], signs, failed


def _hash(told: dict[str, Any]) -> Tensor:
    import imagehash

    pixels = DecodeImage()(told)["img"]
    found = imagehash.phash(Image.fromarray(pixels), _SIDE).hash
    return torch.from_numpy(found.reshape(-1).copy())


def _features(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    encoder: str,
    workers: int | None,
) -> Found:
    """As :func:`_hashes`: features as unit vectors, n x C."""
    from .embed import embed

    found = embed(checkpoint, data, workers=workers, encoder=encoder)
    lengths = np.linalg.norm(found.features, axis=1, keepdims=True)
    return found.paths, found.features / np.maximum(lengths, 1e-12), found.unreadable


def _groups(found: list[tuple[int, int, float]], among: bool) -> list[int]:
    """The number of each pair's group; a twin may itself have an earlier one."""
    group: dict[int, int] = {}
    numbers, count = [], 0
    for i, j, _ in found:  # in the order of the images, so that twins come first
        if j not in group:
            group[j], count = count, count + 1
        if among:
            group[i] = group[j]
        numbers.append(group[j])
    return numbers
