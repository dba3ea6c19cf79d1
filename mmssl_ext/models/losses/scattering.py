"""Prototypes of the same cluster in two views against each other (ProPos)."""

import torch
from torch import Tensor

from ..layers import unit

_EMPTY_LOGIT = -10.0  # of a cluster without an image in the step
_SHORTEST = 1e-6  # of a mean that still has a direction


def prototype_scattering(
    z: Tensor,
    k: Tensor,
    labels: Tensor,
    num_clusters: int,
    temperature: float,
    queue: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Each prototype must be that of its cluster in the other view, apart from others.

    With ``m_j`` and ``m'_j``, the normalised means of the rows of ``z`` and ``k`` that
    have label j, ``l_j = -log(e^{m_j.m'_j/T} / (e^{m_j.m'_j/T} + sum_{i != j}
    e^{m_j.m_i/T}))`` and the mean over the clusters that have rows (arXiv 2111.11821).
    One without any has a logit of -10 in the others' denominators, as in the official
    code; so has one whose rows cancel out. Only clusters that may have rows take
    memory: no matrix is larger than S x S, S = min(clusters, rows) + 1.

    Args:
        z: Query projections of all ranks, M x D unit rows; they alone get a gradient.
        k: Targets of the same images, M x D unit rows.
        labels: Clusters of these images, M long; -1 is none.
        num_clusters: Number of clusters.
        temperature: T > 0.
        queue: Earlier targets, K x D, and their clusters, K; they join both means.

    Returns:
        The loss and the number of clusters that had rows, scalars. The loss is 0
        without any.
    """
    with torch.autocast(z.device.type, enabled=False):
        k = k.detach().to(z)
        if queue is not None:
            keys, names = queue[0].to(z), queue[1]
            z, k = torch.cat([z, keys]), torch.cat([k, keys])
            labels = torch.cat([labels, names])
        places, count = _places(labels, num_clusters)
        known = (labels >= 0).to(z)
        query, key = (_means(x, known, places, count) for x in (z, k))  # S x D
        present = (query.norm(dim=1) > _SHORTEST) & (key.norm(dim=1) > _SHORTEST)
        absent = ~present[:, None]  # S x 1; finite rows, which count for nothing
        mu, other = (unit(x.masked_fill(absent, 1.0)) for x in (query, key))
        positive = (mu * other).sum(1) / temperature  # S
        logits = (mu @ mu.T / temperature).masked_fill(absent.T, -torch.inf)  # S x S
        own = torch.eye(count, dtype=torch.bool, device=z.device)
        logits = torch.where(own, positive[:, None], logits)
        seen = present.sum()
        empty = (num_clusters - seen).to(z).log() + _EMPTY_LOGIT
        losses = torch.logaddexp(logits.logsumexp(1), empty) - positive  # S
        return (losses * present).sum() / seen.clamp(min=1), seen.to(z)


def _places(labels: Tensor, num_clusters: int) -> tuple[Tensor, int]:
    """Number the clusters that occur: a place for each row, M, and of how many at most.

    Rows without a cluster have the last place. No device is waited for.
    """
    ordered, order = labels.masked_fill(labels < 0, num_clusters).sort(stable=True)
    ranks = torch.zeros_like(ordered)
    ranks[1:] = (ordered[1:] != ordered[:-1]).long().cumsum(0)
    places = torch.empty_like(order).scatter_(0, order, ranks)
    return places, min(num_clusters + 1, len(labels))


def _means(rows: Tensor, known: Tensor, places: Tensor, count: int) -> Tensor:
    """Mean of the known rows at each place, S x D; 0 where there are none."""
    sums = rows.new_zeros(count, rows.shape[1])
    sums = sums.index_add(0, places, rows * known[:, None])
    sizes = rows.new_zeros(count).index_add(0, places, known)
    return sums / sizes.clamp(min=1)[:, None]
