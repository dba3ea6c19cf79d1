"""Prototypes by the images that are nearest to them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from mmssl_ext.datasets.transforms.geometry import CenterCrop, ResizeShort
from mmssl_ext.errors import ConfigError
from mmssl_ext.models.layers import unit
from mmssl_ext.upstream import embed
from mmssl_ext.visualization.curves import GREEN, INK, ORANGE

from .sheet import Sheet, frame, shortened, show, signed
from .subject import Subject, spread

TITLE = "Prototypes and their nearest images"
JUDGE = (
    "Good: each prototype has images of one kind, and many prototypes have images; "
    "bad: images of a row share no more than background or colour, or a few prototypes "
    "have nearly all images."
)
_NEAREST = 6


def prototypes_of(model: Any) -> Any:
    """What gives the cosines of embeddings with prototypes, None where none does."""
    return getattr(getattr(model, "compare", None), "prototypes", None)


def draw(subject: Subject) -> Sheet:
    """Draw prototypes, from the one with the most images to one with few.

    Raises:
        ConfigError: The model has no prototypes, or there are too few images.
    """
    if prototypes_of(subject.model) is None:
        raise ConfigError(
            f"{subject.name} has no prototypes; choose another --kind, or the config "
            "of SwAV, MIRA or DINO."
        )
    indices, cosines = _assigned(subject)
    number, total = cosines.shape[1], len(indices)
    if total < _NEAREST:
        raise ConfigError(
            f"Prototypes are shown by {_NEAREST} images each, but there are {total}."
        )
    own = cosines.argmax(1).tolist()
    sizes = Counter(own)
    most = sizes.most_common()
    chosen = [m for m, _ in spread(most, subject.num)]
    captions = [
        f"The nearest prototypes of {total:,} images are {len(sizes):,} of "
        f"{number:,}; the first has {most[0][1]:,} images. In a row the images with "
        "the highest cosine; it stands below."
    ]
    if subject.classes:
        captions.append(
            "Frames: the class that most images of the prototype have (green, solid) "
            "or another (orange, dashed)."
        )
    sheet = subject.sheet(TITLE, captions, len(chosen), _NEAREST)
    values, found = cosines[:, chosen].T.topk(_NEAREST, dim=1)  # rows x 6
    thumbs = subject.thumbs([indices[i] for i in set(found.flatten().tolist())])
    for m, row, near, axes in zip(
        chosen, values.tolist(), found.tolist(), sheet.axes, strict=True
    ):
        axes[0].set_title(
            f"prototype {m}: {sizes[m]:,} image{'s' * (sizes[m] != 1)}",
            loc="left",
            fontsize=9,
        )
        usual = _class_of(subject, [indices[i] for i, p in enumerate(own) if p == m])
        for ax, i, cosine in zip(axes, near, row, strict=True):
            show(ax, thumbs[indices[i]])
            color, name = INK, []
            if subject.classes:
                label = subject.classes[indices[i]]
                color = GREEN if label == usual else ORANGE
                style: Any = "solid" if label == usual else (0, (3, 1.5))
                frame(ax, color, 2.2, style)
                name = [shortened(label, 24)]
            sheet.below(ax, signed(cosine, 3), *name, color=color)
    return sheet


def _assigned(subject: Subject) -> tuple[list[int], Tensor]:
    """Indices of the images that are searched, and their cosines, n x M."""
    model, chosen = subject.model, subject.searched
    steps = ResizeShort(subject.crop), CenterCrop(subject.crop)
    rows: dict[int, Tensor] = {}
    for start in range(0, len(chosen), 64):
        images = subject.tensors(chosen[start : start + 64], *steps)
        batch = torch.stack(list(images.values()))
        inputs = model.data_preprocessor({"inputs": batch}, False)["inputs"]
        found = prototypes_of(model)(unit(embed(model, inputs)["embedding"]))
        rows |= zip(images, found.float().cpu(), strict=True)
    return list(rows), torch.stack(list(rows.values()))


def _class_of(subject: Subject, images: list[int]) -> str | None:
    """The class that most of some images have."""
    if not subject.classes:
        return None
    return Counter(subject.classes[i] for i in images).most_common(1)[0][0]
