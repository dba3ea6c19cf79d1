"""What pseudo-labels are like: sizes, and agreement with true classes."""

from __future__ import annotations

import torch
from torch import Tensor


def cluster_figures(
    labels: Tensor, num_clusters: int, classes: Tensor | None = None
) -> dict[str, Tensor]:
    """Figures of a clustering, as scalars on the device of ``labels``.

    Args:
        labels: Cluster of every image, n.
        num_clusters: C.
        classes: True class of every image, n, where known.

    Returns:
        ``size_min``, ``size_median``, ``size_max`` and ``effective_number``, which is
        the exponential of the entropy of the sizes, C where all are equal. With classes
        ``purity``, the share of the images that are of their cluster's most frequent
        class, and ``nmi``, mutual information over the mean of both entropies, 0 to 1.
    """
    labels = labels.long()
    sizes = torch.bincount(labels, minlength=num_clusters)
    figures = {
        "size_min": sizes.min().double(),
        "size_median": sizes.double().quantile(0.5),
        "size_max": sizes.max().double(),
        "effective_number": _entropy(sizes).exp(),
    }
    if classes is not None:
        count = int(classes.max()) + 1
        pairs = torch.bincount(labels * count + classes, minlength=num_clusters * count)
        table = pairs.view(num_clusters, count)  # C x classes
        by_cluster, by_class = _entropy(sizes), _entropy(table.sum(0))
        shared = by_cluster + by_class - _entropy(pairs)
        mean = (by_cluster + by_class) / 2
        figures["purity"] = table.max(1).values.sum().double() / len(labels)
        # One cluster and one class agree; NumPy's and scikit-learn's 0 / 0 is 1 here.
        nmi = torch.where(mean > 0, shared / mean.clamp(min=1e-12), 1.0)
        figures["nmi"] = nmi.clamp(0, 1)
    return figures


def _entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of a distribution given by counts."""
    share = counts[counts > 0].double() / counts.sum()
    return -(share * share.log()).sum()
