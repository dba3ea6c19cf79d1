"""Images as points in the plane, neighbours near each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from mmssl_ext.errors import ConfigError
from mmssl_ext.evaluation.features import preserved_rng
from mmssl_ext.visualization.curves import BLUE, GREEN, INK, ORANGE, PINK

from .sheet import LINE, Sheet, frame, shortened
from .subject import Subject

TITLE = "Which images are alike"
JUDGE = (
    "Good: images of a kind form groups, with few strangers in them; bad: one cloud in "
    "which the kinds are mixed, or groups by colour or brightness alone."
)
_COLORS = (
    *(BLUE, ORANGE, GREEN, PINK, "#e69f00"),
    *("#56b4e9", "#6e5494", "#8a6d00", INK, "#a0522d"),
)
_MARKERS = "os^DvPX*<>"
_SIZE = np.array((640, 560))  # units of the plane, about pixels
_EDGE = 62  # room around the points for the images beside them
_PIECES = 14  # such images


def draw(subject: Subject) -> Sheet:
    """Draw a point for each image, coloured by class, and some of the images.

    Raises:
        ConfigError: There are too few images, or what draws them is missing.
    """
    indices, features = subject.pooled
    count = len(indices)
    if count < 8:
        raise ConfigError(
            f"An embedding needs at least 8 images, but there are {count}."
        )
    points, how = flat_embedding(features, subject.options.seed)
    sheet = subject.sheet(
        TITLE,
        (
            f"{how} of the pooled backbone features of {count:,} images. Neighbours "
            "are near each other in the features too; axes, large distances and the "
            "sizes of groups mean nothing.",
        ),
    )
    ax = sheet.axes[0, 0]
    frame(ax, LINE, 0.7)
    ax.set(xlim=(0, _SIZE[0]), ylim=(0, _SIZE[1]), aspect="equal", anchor="N")
    low, high = points.min(0), points.max(0)
    places = (points - low) / np.maximum(high - low, 1e-12) * (_SIZE - 2 * _EDGE)
    places += _EDGE
    classes = np.array([subject.classes[i] if subject.classes else "" for i in indices])
    looks = zip(sorted(set(classes)), _COLORS, _MARKERS, strict=False)
    colors = {}
    for name, color, marker in looks:  # ten classes at most
        chosen = classes == name
        style = {"s": 26 if count <= 400 else 16, "linewidths": 0, "alpha": 0.8}
        label = f"{shortened(name, 20)} ({chosen.sum()})"
        ax.scatter(*places[chosen].T, c=color, marker=marker, label=label, **style)
        colors[name] = color
    if subject.classes:
        side = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "frameon": False}
        text = {"fontsize": 8.3, "title_fontsize": 8.3, "labelcolor": INK}
        ax.legend(title="class (images)", alignment="left", **side, **text)
    rows = spread_out(places, _PIECES)
    thumbs = subject.thumbs([indices[i] for i in rows])
    for row, shift in zip(rows, aside(places, rows), strict=True):
        color = colors[classes[row]]
        thumb = AnnotationBbox(
            OffsetImage(thumbs[indices[row]], zoom=0.3),
            places[row],
            shift,
            boxcoords="offset points",
            pad=0.05,
            bboxprops={"edgecolor": color, "linewidth": 1.5},
            arrowprops={"arrowstyle": "-", "color": color},
        )
        ax.add_artist(thumb)
    return sheet


def flat_embedding(features: Tensor, seed: int) -> tuple[np.ndarray, str]:
    """Points, n x 2, of unit rows, n x C, by t-SNE; and the method in words.

    Raises:
        ConfigError: scikit-learn is missing.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise ConfigError(
            "An embedding needs scikit-learn: pip install scikit-learn"
        ) from error
    size = min(30.0, max(2.0, (len(features) - 1) / 3))
    with preserved_rng():
        points = TSNE(perplexity=size, init="pca", random_state=seed).fit_transform(
            features.double().numpy()
        )
    return points, f"t-SNE, perplexity {size:g}"


def spread_out(points: np.ndarray, count: int) -> list[int]:
    """Numbers of points far from each other: the next is the farthest from all."""
    chosen = [int(np.argmin(((points - points.mean(0)) ** 2).sum(1)))]
    left = np.full(len(points), np.inf)
    while len(chosen) < min(count, len(points)):
        left = np.minimum(left, ((points - points[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(left.argmax()))
    return chosen


def aside(places: np.ndarray, rows: Sequence[int], length: float = 28) -> np.ndarray:
    """For some of the points n x 2, the way from the points around them, m x 2."""
    far = np.linalg.norm(places - places[rows][:, None], axis=2)  # m x n
    around = places[np.argsort(far, axis=1)[:, : max(len(places) // 8, 2)]].mean(1)
    ways = places[rows] - around
    return length * ways / np.maximum(np.linalg.norm(ways, axis=1), 1e-12)[:, None]
