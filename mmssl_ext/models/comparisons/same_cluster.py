"""Rows of the cluster of a target's image (CMSF-KM, arXiv 2112.04607)."""

from __future__ import annotations

from typing import Any

import torch

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..memory import OfflineLabels
from .constraint import KeepsTargets
from .same_label import ByLabel


@MODELS.register_module()
class SameCluster(KeepsTargets, ByLabel):
    """The rows of the target's cluster (CMSF-KM, self-supervised).

    Targets of the training are kept for each image and clustered at the end of an
    epoch; there is no set before. Memory: n D elements of ``dtype``, for ImageNet and D
    = 512 1.3 GB in half precision.

    Args:
        num_clusters: Of the k-means; 50,000 for ImageNet.
        interval: Epochs between two clusterings.
        num_iters: Iterations of k-means at most.
        dtype: Of the kept targets; None is that of the bank.
        share: See :class:`Constraint`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(
        self,
        num_clusters: int,
        interval: int = 1,
        num_iters: int = 20,
        dtype: str | None = None,
        share: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(dtype, share, init_cfg)
        self.pseudo_labels = OfflineLabels(num_clusters, interval, num_iters)
        self.first_epoch = interval

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images, without labels."""
        self.pseudo_labels.check_images(length)
        self.pseudo_labels.clear()
        super().prepare(length, fingerprint)
        self.table.write(self.table.labels.new_full((length,), -1), fingerprint)

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint."""
        if not training.by_epoch:
            raise UserValueError(
                "SameCluster clusters after an epoch, which this run has not; set "
                "by_epoch=True in train_cfg, or use EarlierNeighbours."
            )
        super().start(training)

    def end_epoch(self, training: Any) -> None:
        """Cluster at the interval."""
        if (training.epoch + 1) % self.pseudo_labels.interval == 0:
            self.cluster(training.seed)

    @torch.no_grad()
    def cluster(self, seed: int = 0) -> None:
        """Cluster what is kept; images that were never seen stay without a label."""
        known = (self.table.labels >= 0).any()
        if known:
            self.pseudo_labels.renew(self.last)
        else:
            self.pseudo_labels.start(self.last, seed)
        seen = self.last.features.any(1)
        labels = self.pseudo_labels.labels.masked_fill(~seen, -1)
        self.table.write(labels, int(self.last.fingerprint))
