"""Spherical k-means on the device, and what its clusters consist of.

Sums are taken over integers (fixed point, 2^-30), so that they do not depend on the
order of the additions: equal on every device and rank, and exact under later changes.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.errors import UserValueError

_SCALE = 2.0**30  # unit rows; the sum of 2^32 of them still fits
_SEED_ROUNDS = 64
_BLOCK_ROWS = 65536
_BLOCK_ELEMENTS = 2**24

Progress = Callable[[int, int], None]


def to_fixed(features: Tensor) -> Tensor:
    """Features within [-1, 1] as int64."""
    return (features.double() * _SCALE).round().long()


def cluster_sums(features: Tensor, labels: Tensor, num_clusters: int) -> Tensor:
    """Sums of n x D features by cluster in fixed point, C x D int64."""
    sums = torch.zeros(
        num_clusters, features.shape[1], dtype=torch.long, device=features.device
    )
    for block, rows in _blocks(features, labels):
        sums.index_add_(0, rows, to_fixed(block))
    return sums


def cluster_sizes(labels: Tensor, num_clusters: int) -> Tensor:
    """Number of images of every cluster, C."""
    sizes = torch.zeros(num_clusters, dtype=torch.long, device=labels.device)
    return sizes.index_add_(0, labels.long(), torch.ones_like(labels, dtype=torch.long))


def means(sums: Tensor, sizes: Tensor) -> Tensor:
    """Mean features from fixed-point sums, C x D fp32; 0 for empty clusters."""
    return (sums.double() / _SCALE / sizes.clamp(min=1)[:, None]).float()


@torch.no_grad()
def spherical_kmeans(
    features: Tensor,
    num_clusters: int,
    num_iters: int = 20,
    seed: int = 0,
    centroids: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Labels that (locally) maximise the cosine of every image with its centroid.

    Args:
        features: n x D unit rows, any floating dtype.
        num_clusters: C, at most n; none is empty in the end.
        num_iters: Iterations at most; it ends when no label changes.
        seed: Of the k-means++ start.
        centroids: Start from these, C x D unit rows, instead.
        progress: Called with (iterations done, iterations at most).

    Returns:
        Labels, n int32.

    Raises:
        ValueError: There are more clusters than images.
    """
    if not 1 <= num_clusters <= len(features):
        raise UserValueError(
            f"{num_clusters} clusters cannot be made of {len(features)} images."
        )
    if centroids is None:
        centroids = plus_plus(features, num_clusters, seed)
    labels = torch.full_like(features[:, 0], -1, dtype=torch.int32)
    for iteration in range(num_iters):
        before = labels
        labels, similarity = assign(features, centroids)
        labels = fill_empty(labels, similarity, num_clusters)
        if progress is not None:
            progress(iteration + 1, num_iters)
        if torch.equal(labels, before):
            break
        sums = cluster_sums(features, labels, num_clusters)
        centroids = normalize(sums.double(), dim=1).float()
    return labels


def plus_plus(features: Tensor, num_clusters: int, seed: int) -> Tensor:
    """First centroids by k-means++, up to 64 draws one after the other, else batched.

    An image is drawn with a probability in proportion to its cosine distance from the
    centroids so far (half its squared distance, as both are unit vectors). With more
    than 64 clusters a round draws several; from n > 32 C images, only 32 C take part.

    Returns:
        C x D unit rows fp32.
    """
    device = features.device
    generator = torch.Generator(device).manual_seed(seed)
    count = min(len(features), max(_BLOCK_ROWS, 32 * num_clusters))
    chosen = torch.randperm(len(features), generator=generator, device=device)[:count]
    sample = normalize(features[chosen].float(), dim=1)
    parts = [sample[:1]]  # in random order, so this is a draw
    left, rounds = num_clusters - 1, min(num_clusters - 1, _SEED_ROUNDS)
    distance = torch.full_like(sample[:, 0], 2.0)
    taken = torch.zeros_like(distance, dtype=torch.bool)
    taken[0] = True
    while left:
        nearest = assign(sample, parts[-1])[1]
        distance = torch.minimum(distance, 1 - nearest)
        # What coincides with a centroid may still be drawn when nothing else is left.
        weights = distance.clamp(min=1e-9).masked_fill(taken, 0)
        new = torch.multinomial(weights, -(-left // rounds), generator=generator)
        taken[new] = True
        parts.append(sample[new])
        left, rounds = left - len(new), rounds - 1
    return torch.cat(parts)


def assign(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Most similar centroid of every image: labels, n int32, and similarities, n."""
    labels = torch.empty_like(features[:, 0], dtype=torch.int32)
    similarity = torch.empty_like(labels, dtype=torch.float32)
    size = max(1, min(_BLOCK_ROWS, _BLOCK_ELEMENTS // len(centroids)))
    for start in range(0, len(features), size):
        block = features[start : start + size].float() @ centroids.T
        best, which = block.max(1)
        similarity[start : start + size] = best
        labels[start : start + size] = which
    return labels, similarity


def fill_empty(labels: Tensor, similarity: Tensor, num_clusters: int) -> Tensor:
    """Give every empty cluster one of the images that fit their own worst.

    One image of every other cluster is left alone, so that no new gap appears.
    """
    sizes = cluster_sizes(labels, num_clusters)
    empty = (sizes == 0).nonzero()[:, 0]
    if len(empty) == 0:
        return labels
    best = torch.full((num_clusters,), -2.0, device=labels.device)
    best.scatter_reduce_(0, labels.long(), similarity, "amax")
    stays = (similarity == best[labels.long()]).nonzero()[:, 0]
    stays = first_of_each(labels[stays].long(), stays, num_clusters)
    fit = similarity.index_fill(0, stays, torch.inf)
    labels = labels.clone()
    labels[fit.topk(len(empty), largest=False).indices] = empty.int()
    return labels


def first_of_each(labels: Tensor, rows: Tensor, num_clusters: int) -> Tensor:
    """Smallest row of every cluster that has any."""
    nothing = torch.iinfo(torch.long).max
    first = torch.full((num_clusters,), nothing, device=labels.device)
    first.scatter_reduce_(0, labels, rows, "amin")
    return first[first != nothing]


def halve(features: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Split every group by 2-means: True for the members of the second half.

    It starts from the member farthest from the group's mean and the one farthest from
    that; 20 iterations at most, all groups at once. Where that leaves one side empty,
    as for equal features, every other member goes. A group needs two members.

    Args:
        features: R x D fp32.
        groups: Group of every row, R, in 0 to G - 1.
        num_groups: G.
    """
    members = cluster_sizes(groups, num_groups)
    centre = means(cluster_sums(features, groups, num_groups), members)
    first = _farthest(features, centre, groups)
    second = _farthest(features, first, groups)
    side = torch.zeros_like(groups, dtype=torch.bool)
    for _ in range(20):
        before = side
        middle = ((second**2).sum(1) - (first**2).sum(1)) / 2
        side = (features * (second - first)[groups]).sum(1) > middle[groups]
        if torch.equal(side, before):
            break
        halves = 2 * groups + side
        sizes = cluster_sizes(halves, 2 * num_groups)
        centres = means(cluster_sums(features, halves, 2 * num_groups), sizes)
        first, second = centres[0::2], centres[1::2]
    sizes = cluster_sizes(2 * groups + side, 2 * num_groups).view(num_groups, 2)
    failed = (sizes == 0).any(1)
    order = groups.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    starts = members.cumsum(0) - members
    alternate = (place - starts[groups]) % 2 == 1
    return torch.where(failed[groups], alternate, side)


def _farthest(features: Tensor, centres: Tensor, groups: Tensor) -> Tensor:
    """Of every group the member farthest from its centre, G x D."""
    distance = ((features - centres[groups]) ** 2).sum(1)
    far = torch.full_like(centres[:, 0], -1).scatter_reduce_(
        0, groups, distance, "amax"
    )
    rows = (distance == far[groups]).nonzero()[:, 0]
    return features[first_of_each(groups[rows], rows, len(centres))]


def _blocks(features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    pairs = zip(features.split(_BLOCK_ROWS), labels.split(_BLOCK_ROWS), strict=True)
    for block, rows in pairs:
        yield block, rows.long()
