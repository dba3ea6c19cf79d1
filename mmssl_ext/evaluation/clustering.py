"""How well clusters of frozen features agree with the true classes.

The protocol of deep clustering (ProPos, arXiv 2111.11821): spherical k-means with as
many clusters as there are classes, the best of ten starts; normalised mutual
information (NMI), adjusted Rand index (ARI), and the accuracy (ACC) under the best
assignment of clusters to classes, which the Hungarian method finds. Labels serve the
comparison alone.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank
from mmengine.logging import print_log
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.errors import UserError, UserValueError
from mmssl_ext.models.memory.kmeans import cluster_sums, spherical_kmeans

from .features import Features

SCORES = ("nmi", "ari", "acc")
_ITERATIONS = 300  # at most; it ends when no image changes its cluster
_STARTS = 10  # of which the clusters with the highest mean cosine count


def agreement(clusters: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """``nmi``, ``ari`` and ``acc`` in percent of two partitions of n images.

    Args:
        clusters: Cluster of every image, n integers.
        classes: Class of every image, n integers.

    Raises:
        UserError: scikit-learn or scipy is not installed.
    """
    _check_packages()
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(classes, clusters)  # classes x clusters
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    found = (
        normalized_mutual_info_score(classes, clusters),
        adjusted_rand_score(classes, clusters),
        matched / len(classes),
    )
    return dict(zip(SCORES, (100 * float(x) for x in found), strict=True))


@torch.no_grad()
def clustering_scores(
    features: Tensor,
    classes: Tensor,
    num_clusters: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Cluster features by their directions and compare the clusters with the classes.

    The same features, seed and device give the same scores.

    Args:
        features: n x C, of any length; k-means runs on their device.
        classes: True class of every image, n integers.
        num_clusters: Number of clusters; None is that of the classes that occur.
        seed: Of the k-means++ starts.

    Returns:
        ``nmi``, ``ari`` and ``acc`` in percent. With more clusters than classes some
        are assigned to none, and ``acc`` cannot reach 100.

    Raises:
        UserError: scikit-learn or scipy is not installed.
        ValueError: The classes do not suit the scores, or there are more clusters than
            images.
    """
    _check_packages()
    truth = classes.cpu().numpy()
    if len(truth) != len(features) or (truth < 0).any():
        raise UserValueError(
            "Clustering scores need a label for every image of the query set."
        )
    count = len(np.unique(truth))
    if count < 2:
        raise UserValueError(
            "Clustering scores say nothing of a query set with a single class; give it "
            "images of two classes or more."
        )
    wanted = count if num_clusters is None else num_clusters
    if not 1 <= wanted <= len(features):
        raise UserValueError(
            f"Clustering scores: {wanted} clusters cannot be made of the "
            f"{len(features)} images of the query set; lower num_clusters, or leave it "
            f"out for one per class ({count})."
        )
    rows = normalize(features.float(), dim=1)
    if not bool(rows.isfinite().all()):
        raise UserValueError("Clustering scores need finite features.")
    starts = range(_STARTS * seed, _STARTS * (seed + 1))
    tries = [spherical_kmeans(rows, wanted, _ITERATIONS, start) for start in starts]
    best = max(tries, key=lambda labels: _sum_of_cosines(rows, labels, wanted))
    return agreement(best.cpu().numpy(), truth)


def _sum_of_cosines(rows: Tensor, labels: Tensor, num_clusters: int) -> float:
    """What spherical k-means maximises: of all rows and the centroids of theirs."""
    sums = cluster_sums(rows, labels, num_clusters)  # in fixed point, so exact
    return sums.double().norm(dim=1).sum().item()


def clustering_of(
    query: Features,
    names: tuple[str, ...] | None = None,
    num_clusters: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """``<name>_nmi``, ``<name>_ari`` and ``<name>_acc`` in percent of every feature.

    Rank 0 clusters; all get its scores. Where there can be none, it warns in one
    sentence, and none are returned.

    Args:
        query: What is clustered.
        names: Of the features; None takes all.
        num_clusters: See :func:`clustering_scores`; 0 asks for no scores.
        device: Where k-means runs.
    """
    names = tuple(query.features) if names is None else names
    if num_clusters == 0 or not names:
        return {}
    found = torch.full((len(names), len(SCORES)), torch.nan, dtype=torch.double)
    if get_rank() == 0:
        classes = torch.tensor([-1]) if query.labels is None else query.labels
        try:
            for row, name in zip(found, names, strict=True):
                features = query.features[name].to(device)
                scores = clustering_scores(features, classes, num_clusters)
                row.copy_(torch.tensor([scores[key] for key in SCORES]))
        except UserError as error:
            found.fill_(torch.nan)
            print_log(str(error), logger="current", level=logging.WARNING)
    found = found.to(device)
    broadcast(found)
    if bool(found.isnan().any()):
        return {}
    return {
        f"{name}_{key}": value
        for name, row in zip(names, found.tolist(), strict=True)
        for key, value in zip(SCORES, row, strict=True)
    }


def _check_packages() -> None:
    """Ask for what is not a dependency."""
    if missing := [n for n in ("sklearn", "scipy") if find_spec(n) is None]:
        raise UserError(
            f"Clustering scores need scikit-learn and scipy, of which {missing[0]} is "
            "not installed: pip install scikit-learn"
        )
