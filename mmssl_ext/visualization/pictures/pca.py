"""Feature maps as colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .sheet import Sheet, show
from .subject import Subject, feature_maps, undisturbed

TITLE = "Feature maps as colours"
JUDGE = (
    "Good: objects stand out from their surroundings, and like parts have like colours "
    "in all images; bad: one flat colour, or colours that only follow the place in the "
    "image."
)


def draw(subject: Subject) -> Sheet:
    """Draw images with maps of their cells' colours below, a row per stage."""
    sets = {stage: [m[stage] for m in subject.maps] for stage in subject.maps[0]}
    if subject.untrained is not None:
        stage = list(sets)[-1]
        with undisturbed(subject.untrained):
            sets[f"{stage}, untrained"] = [
                feature_maps(subject.untrained, image)[stage]
                for image in subject.shown.values()
            ]
    found = {
        stage: principal_components(np.concatenate([_rows(m) for m in maps]))
        for stage, maps in sets.items()
    }
    shares = [
        f"{stage} {' + '.join(f'{100 * share:.0f}' for share in shares)} %"
        for stage, (_, shares) in found.items()
    ]
    columns, height = min(len(subject.shown), 6), 1 + len(sets)
    sheet = subject.sheet(
        TITLE,
        (
            "Red, green and blue are the first three principal components of the "
            "cells' features, fitted on all of these images.",
            f"Share of the variance: {'; '.join(shares)}.",
        ),
        -(-len(subject.shown) // columns) * height,
        columns,
    )
    for i, (index, image) in enumerate(subject.shown.items()):
        line, column = divmod(i, columns)
        axes = sheet.axes[line * height : (line + 1) * height, column]
        show(axes[0], subject.pixels(image))
        for ax, (stage, maps) in zip(axes[1:], sets.items(), strict=True):
            ends = np.cumsum([len(_rows(m)) for m in maps])
            part = to_colors(found[stage][0])[: ends[i]][-len(_rows(maps[i])) :]
            show(ax, part.reshape(*maps[i].shape[:2], 3), aspect=axes[0].get_aspect())
            if column == 0:
                cell = image.shape[2] / maps[i].shape[1]
                ax.set_ylabel(f"{stage.replace(', ', chr(10))}\n{cell:.3g} px cells")
        if column == 0:
            axes[0].set_ylabel("image")
        sheet.below(axes[-1], subject.file(index, 20))
    for ax in sheet.axes[:, 0]:
        ax.yaxis.label.set(rotation=0, ha="right", va="center", ma="left")
    return sheet


def _rows(cells: np.ndarray) -> np.ndarray:
    return cells.reshape(-1, cells.shape[-1])


def principal_components(
    rows: np.ndarray, count: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """The first k principal components of n rows: coordinates, n x k, and shares, k.

    The entry of largest size in every direction is positive, so that equal rows give
    equal components.
    """
    centred = torch.from_numpy(np.asarray(rows, np.float64))
    centred = centred - centred.mean(0)
    wide = centred.shape[1] > len(centred)  # take the smaller of the two products
    gram = centred @ centred.T if wide else centred.T @ centred
    values, vectors = torch.linalg.eigh(gram)
    values = values.flip(0).clamp(min=0)[:count]
    vectors = vectors.flip(1)[:, :count]
    if wide:
        vectors = nn.functional.normalize(centred.T @ vectors, dim=0)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    total = (centred**2).sum().clamp(min=torch.finfo(torch.float64).tiny)
    return (centred @ vectors).numpy(), (values / total).numpy()


def to_colors(scores: np.ndarray) -> np.ndarray:
    """Scale each of three components from its 1st to its 99th percentile: uint8."""
    low, high = np.percentile(scores, (1, 99), axis=0)
    scaled = (scores - low) / np.maximum(high - low, 1e-12)
    return np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
