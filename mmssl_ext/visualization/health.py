"""What the health scalars mean and where a sound run has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One health measure.

    Attributes:
        key: Its name in the training log lines.
        title: Its name for readers.
        meaning: What the number is, in one sentence.
        expected: Where it lies in a sound run, in words.
        marks: Values to mark in the figure, with their labels.
        ymin: Lower end of the figure's axis, where it has a natural one.
    """

    key: str
    title: str
    meaning: str
    expected: str
    marks: tuple[tuple[float, str], ...] = ()
    ymin: float | None = None


COLLAPSE_BELOW = 0.1
"""Spread of the embeddings below which a run has collapsed."""

PANELS = (
    Panel(
        "health/std_ratio",
        "Spread of embeddings",
        "Standard deviation of the unit embeddings per channel, times the square root "
        "of their size: 1 when they fill the sphere evenly, 0 when all are equal.",
        f"near 1; an alarm below {COLLAPSE_BELOW:g} (collapse)",
        ((1.0, "even"), (COLLAPSE_BELOW, "collapse alarm")),
        0.0,
    ),
    Panel(
        "health/effective_rank",
        "Effective rank",
        "Number of directions the embeddings really use: the exponential of the "
        "entropy of their singular values (arXiv 2210.02885).",
        "rises early, then steady; towards 1 means collapse to a line",
        (),
        0.0,
    ),
    Panel(
        "health/pos_neg_gap",
        "Positive-negative gap",
        "Mean cosine similarity of an image's two views minus that of different "
        "images: what the loss is to widen.",
        "0 before training, then rising; typically 0.3 to 0.9",
        (),
        0.0,
    ),
    Panel(
        "health/alignment",
        "Alignment",
        "Mean squared distance between the embeddings of an image's two views "
        "(arXiv 2005.10242); 0 means identical.",
        "falling; 0 together with uniformity near 0 means collapse",
        (),
        0.0,
    ),
    Panel(
        "health/uniformity",
        "Uniformity",
        "Logarithm of the mean Gaussian potential between embeddings "
        "(arXiv 2005.10242); the more negative, the more evenly spread.",
        "-2 to -4; towards 0 means collapse",
    ),
)
