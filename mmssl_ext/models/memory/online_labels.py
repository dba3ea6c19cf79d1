"""Pseudo-labels that follow the network step by step.

InterCLR (arXiv 2008.11702), section on pseudo-label maintenance.
"""

from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from .feature_bank import Change, FeatureBank
from .kmeans import cluster_sums, halve, means, to_fixed
from .pseudo_labels import PseudoLabels, check_positive_int, usual_clusters


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
            The released code dissolves small clusters at every step, for which the host
            would have to wait for the device.
        min_size: Clusters below it are dissolved; 1 fills empty ones only. A half may
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
            raise UserValueError(
                f"num_clusters={self.num_clusters} clusters of at least min_size="
                f"{self.min_size} images need {self.min_size * self.num_clusters} "
                f"images, but there are {num_images}; {usual_clusters(num_images)} "
                "clusters are usual, or lower min_size."
            )

    def cluster(self, bank: FeatureBank, **options: Any) -> None:
        """Set labels and means by k-means; then dissolve small clusters."""
        super().cluster(bank, **options)
        self.rebalance(bank)

    def set_labels(self, labels: Tensor, bank: FeatureBank) -> Tensor:
        """Take these labels, n, and keep the sums of their members, C x D."""
        self.sums = super().set_labels(labels, bank)
        return self.sums

    def check(self, bank: FeatureBank) -> None:
        """Refuse labels, as loaded, that do not belong to the bank.

        Raises:
            ValueError: They were made with another number of clusters, by another kind
                of labels, or of another bank.
        """
        super().check(bank)
        if self.sums.shape != self.centroids.shape:
            raise UserValueError(
                "The checkpoint's pseudo-labels are of another type than "
                f"{type(self).__name__}; resume with the pseudo_labels that it was "
                "trained with."
            )
        sums = cluster_sums(bank.features, self.labels, self.num_clusters)
        if not torch.equal(sums, self.sums):  # integers: they agree to the last bit
            raise UserValueError(
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
                self.rebalance(bank)

    def update_centroids(self) -> None:
        """Means of the members; an empty cluster keeps its old centroid."""
        filled = (self.sizes > 0)[:, None]
        self.centroids = torch.where(
            filled, means(self.sums, self.sizes), self.centroids
        )

    def rebalance(self, bank: FeatureBank) -> None:
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
