"""Pseudo-labels of all training images, and how they are kept up to date.

InterCLR (arXiv 2008.11702), section on pseudo-label maintenance: labels that follow
the network step by step (online), or a clustering of everything once in a while.
"""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, get_world_size
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.registry import MODELS

from .feature_bank import Change, FeatureBank
from .kmeans import (
    cluster_sizes,
    cluster_sums,
    halve,
    means,
    spherical_kmeans,
    to_fixed,
)
from .step_counter import StepCounter


class PseudoLabels(StepCounter):
    """A cluster for every image, by spherical k-means to begin with.

    Args:
        num_clusters: C; about one for 128 images.
        num_iters: Iterations of k-means at most.

    Attributes:
        labels: Cluster of every image, n int32.
        sizes: Number of images of every cluster, C.
        centroids: C x D fp32.
        visits: Images seen and images whose label changed, since the monitor last
            asked; shape 2.
        needs_epochs: Whether :meth:`end_epoch` does anything.

    Raises:
        ValueError: ``num_clusters`` or ``num_iters`` is not positive.
    """

    needs_epochs = False
    labels: Tensor
    sizes: Tensor
    centroids: Tensor
    visits: Tensor

    def __init__(self, num_clusters: int, num_iters: int = 20) -> None:
        super().__init__()
        check_positive_int(num_clusters=num_clusters, num_iters=num_iters)
        self.num_clusters = num_clusters
        self.num_iters = num_iters
        self.register_buffer("labels", torch.empty(0, dtype=torch.int32))
        self.register_buffer("sizes", torch.zeros(num_clusters, dtype=torch.long))
        self.register_buffer("centroids", torch.empty(num_clusters, 0))
        self.register_buffer("visits", torch.zeros(2, dtype=torch.long))

    @torch.no_grad()
    def start(
        self,
        bank: FeatureBank,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Cluster the bank; rank 0 does it for all.

        Raises:
            ValueError: There are more clusters than images.
        """
        self.cluster(bank, seed=seed, progress=progress)
        self.visits.zero_()

    def check_images(self, num_images: int) -> None:
        """Refuse too few images for the clusters.

        Raises:
            ValueError: There are more clusters than images.
        """
        if self.num_clusters > num_images:
            raise ValueError(
                f"num_clusters={self.num_clusters} clusters cannot be made of "
                f"{num_images} images; {_usual(num_images)} is usual, one for about "
                "128 images."
            )

    def cluster(self, bank: FeatureBank, **options: Any) -> None:
        """Set the labels by k-means over the whole bank."""
        self.check_images(len(bank))
        features = bank.features
        labels = torch.empty_like(features[:, 0], dtype=torch.int32)
        if get_rank() == 0:
            labels = spherical_kmeans(
                features, self.num_clusters, self.num_iters, **options
            )
        broadcast(labels)
        self.set_labels(labels, bank)

    def set_labels(self, labels: Tensor, bank: FeatureBank) -> None:
        """Take these labels, n; the centroids are the means of their members."""
        self.labels = labels.int()
        self.sizes = cluster_sizes(self.labels, self.num_clusters)
        sums = cluster_sums(bank.features, self.labels, self.num_clusters)
        self.centroids = means(sums, self.sizes)

    def check(self, bank: FeatureBank) -> None:
        """Refuse labels, as loaded, that do not belong to the bank.

        Raises:
            ValueError: They were made with another number of clusters.
        """
        images = len(bank)
        if len(self.labels) != images or int(self.sizes.sum()) != images:
            raise ValueError(
                f"The checkpoint's pseudo-labels do not fit {self.num_clusters} "
                "clusters; resume with the num_clusters that it was trained with."
            )
        self.check_images(images)

    def draw_members(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """For every image one of its own cluster, possibly itself, uniformly: N.

        ``generator`` is in the same state on all ranks; they draw as one process would
        for the whole batch.
        """
        clusters = self.labels[rows].long()
        order = self.labels.argsort(stable=True)  # images, cluster after cluster
        size = self.sizes[clusters]
        start = self.sizes.cumsum(0)[clusters] - size
        chance = torch.rand(
            (get_world_size(), len(rows)),
            dtype=torch.double,
            generator=generator,
            device=rows.device,
        )[get_rank()]
        place = torch.minimum((chance * size).long(), size - 1)
        return order[start + place]

    def update(self, change: Change, bank: FeatureBank) -> None:
        """Follow a step that wrote ``change`` into the bank."""
        raise NotImplementedError

    def end_epoch(self, epoch: int, bank: FeatureBank) -> None:
        """Follow the end of an epoch; ``epoch`` counts from 1."""

    def adopt_sizes(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Take the numbers of images and features from a state to be loaded."""
        for name in ("labels", "centroids", "sums"):
            saved, own = state_dict.get(prefix + name), getattr(self, name, None)
            if saved is not None and own is not None:
                # The number of clusters is the config's.
                shape = (*own.shape[:-1], saved.shape[-1])
                setattr(self, name, own.new_empty(shape))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.adopt_sizes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Number of clusters for ``print(model)``."""
        return f"num_clusters={self.num_clusters}"


@MODELS.register_module()
class OnlineLabels(PseudoLabels):
    """Labels that follow the network: the images of a step are assigned anew.

    After every step ``y_i = argmax_c M_c . V_i`` for its images, and every ``interval``
    steps each centroid M_c becomes the plain mean of its members (not normalised, so
    tight clusters attract). Then clusters below ``min_size`` are dissolved: their
    members go to the best larger cluster, and each freed number takes one half of a
    cluster that is among the largest. The sums behind the means are exact integers that
    a step changes by its own images alone; nothing is ever summed up anew.

    Args:
        num_clusters: C.
        interval: Steps between two updates of the centroids and the small clusters.
            The released code mends small clusters at every step, for which the host
            would have to wait for the device.
        min_size: Clusters below it are dissolved; 1 mends empty ones only. A half may
            be smaller, until the next update.
        num_iters: Iterations of the first clustering.

    Raises:
        ValueError: A number is not positive.
    """

    sums: Tensor

    def __init__(
        self,
        num_clusters: int,
        interval: int = 10,
        min_size: int = 20,
        num_iters: int = 20,
    ) -> None:
        super().__init__(num_clusters, num_iters)
        check_positive_int(interval=interval, min_size=min_size)
        self.interval = interval
        self.min_size = min_size
        self.register_buffer("sums", torch.empty(num_clusters, 0, dtype=torch.long))

    def check_images(self, num_images: int) -> None:
        """Refuse too few images for clusters of ``min_size``.

        Raises:
            ValueError: There are fewer images than that.
        """
        super().check_images(num_images)
        if self.min_size * self.num_clusters > num_images:
            raise ValueError(
                f"num_clusters={self.num_clusters} clusters of at least min_size="
                f"{self.min_size} images need {self.min_size * self.num_clusters} "
                f"images, but there are {num_images}; {_usual(num_images)} clusters "
                "are usual, or lower min_size."
            )

    def cluster(self, bank: FeatureBank, **options: Any) -> None:
        """Set labels and means by k-means; then mend small clusters."""
        super().cluster(bank, **options)
        self.mend_small(bank)

    def set_labels(self, labels: Tensor, bank: FeatureBank) -> None:
        """Take these labels, n, and sum up their members."""
        super().set_labels(labels, bank)
        self.sums = cluster_sums(bank.features, self.labels, self.num_clusters)

    def check(self, bank: FeatureBank) -> None:
        """Refuse labels, as loaded, that do not belong to the bank.

        Raises:
            ValueError: They were made with another number of clusters, by another kind
                of labels, or of another bank.
        """
        super().check(bank)
        if self.sums.shape != self.centroids.shape:
            raise ValueError(
                "The checkpoint's pseudo-labels are of another type than "
                f"{type(self).__name__}; resume with the pseudo_labels that it was "
                "trained with."
            )
        sums = cluster_sums(bank.features, self.labels, self.num_clusters)
        if not torch.equal(sums, self.sums):  # integers: they agree to the last bit
            raise ValueError(
                "The checkpoint's pseudo-labels are not those of its feature bank; "
                "resume with the bank_dtype that it was trained with."
            )

    @torch.no_grad()
    def update(self, change: Change, bank: FeatureBank) -> None:
        """Assign the written images anew; at the interval, update the clusters."""
        rows, old, new, counts, last = change
        with torch.autocast(new.device.type, enabled=False):
            after = (new @ self.centroids.T).argmax(1)[last]
            self._move(rows, after, old, new, counts.long())
            self.count_step()
            if self.num_steps % self.interval == 0:
                self.update_centroids()
                self.mend_small(bank)

    def update_centroids(self) -> None:
        """Means of the members; an empty cluster keeps its old centroid."""
        filled = (self.sizes > 0)[:, None]
        self.centroids = torch.where(
            filled, means(self.sums, self.sizes), self.centroids
        )

    def mend_small(self, bank: FeatureBank) -> None:
        """Dissolve clusters below ``min_size`` and halve the largest instead."""
        small = self.sizes < self.min_size  # C
        free = small.nonzero()[:, 0]
        if len(free) == 0:
            return
        rows = small[self.labels.long()].nonzero()[:, 0]
        features = bank.read(rows)
        similarity = (features @ self.centroids.T).masked_fill(small, -torch.inf)
        self._move(rows, similarity.argmax(1), features, features)
        while len(free):  # a round halves many at once
            free = free[self._halve_largest(free, bank) :]
        self.update_centroids()

    def _halve_largest(self, free: Tensor, bank: FeatureBank) -> int:
        """Give halves of large clusters to the first of the free numbers.

        Those are halved that are at least half as large as the largest: the order of
        one at a time, where halves are about equal. A very unequal half may be larger
        than a cluster that is halved in the same round.
        """
        sizes, largest = self.sizes.sort(descending=True, stable=True)
        enough = (2 * sizes >= sizes[0]) & (sizes >= 2)
        count = min(len(free), int(enough.sum()))
        largest, free = largest[:count], free[:count]
        group = torch.full_like(self.sizes, -1)
        group[largest] = torch.arange(count, device=group.device)
        member = group[self.labels.long()]
        rows = (member >= 0).nonzero()[:, 0]
        group, features = member[rows], bank.read(rows)
        second = halve(features, group, count)
        after = torch.where(second, free[group], largest[group])
        self._move(rows, after, features, features)
        return count

    def _move(
        self,
        rows: Tensor,
        after: Tensor,
        old: Tensor,
        new: Tensor,
        counts: Tensor | None = None,
    ) -> None:
        """Set labels, and carry the images' part of the sums along.

        Args:
            rows: Images, R.
            after: Their new labels, R.
            old: Features that the sums hold of them, R x D.
            new: Features that they are to hold, R x D.
            counts: 1 where a row counts and 0 where it repeats another; None when
                nobody visited these images, they are only moved.
        """
        before = self.labels[rows].long()
        weight = torch.ones_like(before) if counts is None else counts
        self.sums.index_add_(0, before, -to_fixed(old) * weight[:, None])
        self.sums.index_add_(0, after, to_fixed(new) * weight[:, None])
        self.sizes.index_add_(0, before, -weight)
        self.sizes.index_add_(0, after, weight)
        self.labels.index_copy_(0, rows, after.int())
        if counts is not None:
            changed = ((before != after) * counts).sum()
            self.visits += torch.stack([counts.sum(), changed])


@MODELS.register_module()
class OfflineLabels(PseudoLabels):
    """Labels of a clustering of the whole bank that is repeated now and then.

    In between only the features are stored. A new clustering starts from the old
    centroids, so that clusters keep their numbers as far as they persist.

    Args:
        num_clusters: C.
        interval: Epochs between two clusterings.
        num_iters: Iterations of each.

    Raises:
        ValueError: A number is not positive.
    """

    needs_epochs = True

    def __init__(
        self, num_clusters: int, interval: int = 1, num_iters: int = 20
    ) -> None:
        super().__init__(num_clusters, num_iters)
        check_positive_int(interval=interval)
        self.interval = interval

    def update(self, change: Change, bank: FeatureBank) -> None:
        """Count the step; labels stay."""
        self.count_step()

    @torch.no_grad()
    def end_epoch(self, epoch: int, bank: FeatureBank) -> None:
        """Cluster anew at the interval."""
        if epoch % self.interval == 0:
            before = self.labels
            self.cluster(bank, centroids=normalize(self.centroids, dim=1))
            self.visits[0] += len(before)
            self.visits[1] += (before != self.labels).sum()


def _usual(num_images: int) -> int:
    return max(1, num_images // 128)


def check_positive_int(**values: int) -> None:
    """Refuse numbers below 1, by their names."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
