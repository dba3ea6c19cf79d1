"""Measures that are drawn small: what they mean, where a sound run has them."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl_ext.code_verdict import ALIKE_ABOVE, USED_BELOW


@dataclass(frozen=True)
class Panel:
    """One measure, or several of a kind in one figure.

    Attributes:
        key: Its name in the training log lines.
        title: Its name for readers.
        meaning: What the number is, in one sentence.
        expected: Where it lies in a sound run, in words.
        marks: Values to mark in the figure, with their labels.
        ymin: Lower end of the figure's axis, None where it has no natural one.
        unit: What the axis counts.
        parts: Names of several lines; the log has each as ``key_part``.
        log_scale: Whether the axis is logarithmic, 0 included.
    """

    key: str
    title: str
    meaning: str = ""
    expected: str = ""
    marks: tuple[tuple[float, str], ...] = ()
    ymin: float | None = 0.0
    unit: str = ""
    parts: tuple[str, ...] = ()
    log_scale: bool = False

    @property
    def lines(self) -> dict[str, str]:
        """Keys of the lines by their names; a single line needs no name."""
        return {part: f"{self.key}_{part}" for part in self.parts} or {"": self.key}


COLLAPSE_BELOW = 0.1
"""Spread of the embeddings below which a run has collapsed."""

HEALTH = (
    Panel(
        "health/std_ratio",
        "Spread of embeddings",
        "Standard deviation of the unit embeddings per channel, times the square root "
        "of their size: 1 when they fill the sphere evenly, 0 when all are equal.",
        f"rising towards 1; an alarm below {COLLAPSE_BELOW:g} (collapse)",
        marks=((1.0, "even"), (COLLAPSE_BELOW, "collapse alarm")),
    ),
    Panel(
        "health/effective_rank",
        "Effective rank",
        "Number of directions the embeddings really use: the exponential of the "
        "entropy of their singular values (arXiv 2210.02885).",
        "rises early, then steady; towards 1 means collapse to a line",
    ),
    Panel(
        "health/pos_neg_gap",
        "Positive-negative gap",
        "Mean cosine similarity of an image's two views minus that of different "
        "images: what the loss is to widen.",
        "small before training, then rising; 0.3 to 0.9 after a long one",
    ),
    Panel(
        "health/alignment",
        "Alignment",
        "Mean squared distance between the embeddings of an image's two views "
        "(arXiv 2005.10242); 0 means identical.",
        "falling; 0 together with uniformity near 0 means collapse",
    ),
    Panel(
        "health/uniformity",
        "Uniformity",
        "Logarithm of the mean Gaussian potential between embeddings "
        "(arXiv 2005.10242); the more negative, the more evenly spread.",
        "falling, to -2 or -4 in a long training; towards 0 means collapse",
        ymin=None,
    ),
    Panel(
        "health/prototypes_used",
        "Prototypes used",
        "Share of the prototypes, or of as many as images were assigned since the line "
        "before, that are the first choice of an image.",
        f"high; an alarm below {USED_BELOW:g}, where few take all images",
        marks=((1.0, "all"), (USED_BELOW, "alarm")),
    ),
    Panel(
        "health/code_entropy",
        "Entropy of the codes",
        "Mean entropy of the assignment of an image, of that of equal shares for all "
        "prototypes: 0 when an image has one prototype, 1 when all are alike to it.",
        f"falling; an alarm above {ALIKE_ABOVE:g}, where the assignments say nothing",
        marks=((1.0, "all alike"),),
    ),
    Panel(
        "health/mean_code_entropy",
        "Entropy of the mean code",
        "Entropy of the mean assignment: 1 when the prototypes are used alike, 0 when "
        "all images have the same one.",
        "near 1",
        marks=((1.0, "even"),),
    ),
)

SCHEDULE = (Panel("lr", "Learning rate"),)

CLASSES = (
    Panel(
        "clustering/backbone",
        "Clusters of held-out images",
        "Agreement of clusters of their features with the true classes: mutual "
        "information (NMI), adjusted Rand index (ARI), accuracy of the best assignment "
        "(ACC).",
        "rising with kNN",
        unit="%",
        parts=("nmi", "ari", "acc"),
    ),
)

CLUSTERS = (
    Panel(
        "cluster/size",
        "Cluster sizes",
        "Images in the smallest, the median and the largest cluster.",
        "the smallest not below the configured min_size for long; the largest not far "
        "above the median",
        unit="images",
        parts=("min", "median", "max"),
        log_scale=True,
    ),
    Panel(
        "cluster/effective_number",
        "Effective clusters",
        "Number of equal clusters that would be as even: the exponential of the "
        "entropy of the sizes.",
        "near the configured num_clusters; far fewer when a few hold most images",
        unit="clusters",
    ),
    Panel(
        "cluster/change_rate",
        "Change rate",
        "Share of the images seen since the log line before whose cluster changed.",
        "high at first, falling as training settles",
        unit="share of images",
    ),
    Panel(
        "cluster/nmi",
        "NMI with classes",
        "Normalised mutual information of clusters and true classes: 0 when "
        "independent, 1 when the same.",
        "rising; below 1 with more clusters than classes",
    ),
    Panel(
        "cluster/purity",
        "Purity",
        "Share of the images that are of the most frequent true class of their "
        "cluster.",
        "rising; more clusters alone raise it too",
        unit="share of images",
    ),
)


def number(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
