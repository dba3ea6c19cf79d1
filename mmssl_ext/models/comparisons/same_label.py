"""Rows of the cluster or class of a target's image (CMSF, arXiv 2112.04607)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import queue_topk
from ..memory import LabelTable, OfflineLabels
from .constraint import Constraint, KeepsTargets


class ByLabel(Constraint):
    """The rows of the bank whose images have the label of the target's image."""

    def __init__(self, share: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(share, init_cfg)
        self.table = LabelTable()

    def choose(self, u: Tensor, index: Tensor | None, k: int, place: int) -> Tensor:
        """See :class:`Constraint`."""
        assert self.rows.index is not None
        labels = self.table.of(self.positions(index)), self.table.of(self.rows.index)
        similarity, rows = queue_topk(u, self.rows.keys, k, labels, own=True)
        return rows.masked_fill(similarity.isneginf(), -1)

    def __len__(self) -> int:
        return len(self.table)


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


@MODELS.register_module()
class SameLabel(ByLabel):
    """The rows of the class of the target's image (CMSF with labels).

    The dataset tells the classes, -1 where one is not known; such an image has no set.

    Args:
        share: See :class:`Constraint`; 1 is the supervised CMSF.
        init_cfg: As for every mmengine module.
    """

    def __init__(self, share: float = 1.0, init_cfg: dict | None = None) -> None:
        super().__init__(share, init_cfg)

    def prepare(self, labels: Tensor, fingerprint: int = 0) -> None:
        """Take the classes of all images, n."""
        self.table.write(labels, fingerprint)

    def start(self, training: Any) -> None:
        """Read the classes.

        Raises:
            ValueError: The dataset has none, or is not that of the checkpoint.
        """
        images = training.dataset
        if images.labels is None:
            raise UserValueError(
                "SameLabel needs a dataset with labels: set train_dataloader.dataset."
                "labels='subfolders' for class folders, or use SameCluster."
            )
        fingerprint = images.fingerprint()
        if training.iteration > 0 and len(self.table):
            self.table.check(fingerprint)
        self.prepare(torch.as_tensor(images.labels), fingerprint)
