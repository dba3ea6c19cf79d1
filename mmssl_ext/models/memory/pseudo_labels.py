"""Pseudo-labels of all training images, and their clustering once in a while.

InterCLR (arXiv 2008.11702), section on pseudo-label maintenance.
"""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import broadcast, get_rank, get_world_size
from torch import Tensor
from torch.nn.functional import normalize

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from .feature_bank import Change, FeatureBank
from .kmeans import cluster_sizes, cluster_sums, means, spherical_kmeans
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
    may_start_anew = True  # where a checkpoint to start from has other sizes
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
            raise UserValueError(
                f"num_clusters={self.num_clusters} clusters cannot be made of "
                f"{num_images} images; {usual_clusters(num_images)} is usual, one for "
                "about 128 images."
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

    def set_labels(self, labels: Tensor, bank: FeatureBank) -> Tensor:
        """Take these labels, n; the centroids are the means of their members.

        Returns:
            The sums of the members in fixed point, C x D.
        """
        self.labels = labels.int()
        self.sizes = cluster_sizes(self.labels, self.num_clusters)
        sums = cluster_sums(bank.features, self.labels, self.num_clusters)
        self.centroids = means(sums, self.sizes)
        return sums

    def check(self, bank: FeatureBank) -> None:
        """Refuse labels, as loaded, that do not belong to the bank.

        Raises:
            ValueError: They were made with another number of clusters.
        """
        images = len(bank)
        if len(self.labels) != images or int(self.sizes.sum()) != images:
            raise UserValueError(
                f"The checkpoint's pseudo-labels do not fit {self.num_clusters} "
                "clusters; resume with the num_clusters that it was trained with."
            )

    def clear(self) -> None:
        """Be as before the first clustering."""
        self.labels = self.labels[:0]

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
            self.renew(bank)

    def renew(self, bank: FeatureBank) -> None:
        """Cluster anew, from the old centroids."""
        before = self.labels
        self.cluster(bank, centroids=normalize(self.centroids, dim=1))
        self.visits[0] += len(before)
        self.visits[1] += (before != self.labels).sum()


def usual_clusters(num_images: int) -> int:
    """One cluster for 128 images."""
    return max(1, num_images // 128)


def check_positive_int(**values: int) -> None:
    """Refuse numbers below 1, by their names."""
    for name, value in values.items():
        if value < 1:
            raise UserValueError(f"{name}={value} must be at least 1.")
