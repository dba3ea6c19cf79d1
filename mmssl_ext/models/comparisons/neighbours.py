"""Which neighbours CMSF takes besides (arXiv 2112.04607): distant, yet related ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import queue_topk
from ..memory import FeatureBank, KeyQueue, LabelTable, OfflineLabels
from ..memory.clock import positions
from ..part import Part, is_count, is_number


class Constraint(Part):
    """A set of the bank's rows for each target, out of which neighbours are taken.

    Args:
        share: What they count beside the k nearest of the whole bank, 0 to 1; 0 is MSF.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``share`` is outside [0, 1].
    """

    def __init__(self, share: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if not is_number(share) or not 0 <= share <= 1:
            raise UserValueError(
                f"constraint.share={share!r} is what the constrained neighbours count "
                "beside the nearest ones and must lie in [0, 1]; 0 is MSF."
            )
        self.share = share

    @property
    def rows(self) -> KeyQueue:
        """The bank of ``MeanShift``, m x D; not a module of this one."""
        return self._rows[0]

    def join(self, rows: KeyQueue, dtype: str) -> None:
        """Know the bank, and make what is kept besides."""
        self._rows = (rows,)  # in a tuple: no module of this one

    def __len__(self) -> int:
        """Number of the dataset's images; 0 before :meth:`start`."""
        raise NotImplementedError

    def positions(self, index: Tensor | None) -> Tensor:
        """Positions of a step's images in the dataset, N.

        Raises:
            ValueError: They are not known, or not in the dataset.
        """
        if len(self) == 0:
            raise UserValueError(
                f"{type(self).__name__} does not know the dataset yet. SSLRunner and "
                "MethodHook let it; in a loop of your own call compare.constraint."
                "prepare before the first step."
            )
        return positions(index, len(self), f"The constraint {type(self).__name__}")

    def follow(self, keys: Tensor, index: Tensor) -> None:
        """Take the targets of a step, M x D, and the positions of their images, M."""

    def choose(self, u: Tensor, index: Tensor | None, k: int, place: int) -> Tensor:
        """Rows of the bank for each target, different ones, -1 where there is none.

        Args:
            u: Targets of a view, N x D.
            index: Positions of their images, N.
            k: How many neighbours are looked for; more need not be returned.
            place: Of the view among the target views.

        Returns:
            N x s, in any order.
        """
        raise NotImplementedError


@MODELS.register_module()
class EarlierNeighbours(Constraint):
    """What was near in the epoch before (CMSF-2Q, self-supervised).

    A second bank has, for each row, the embedding of the same image when it was last
    seen before. The set of a target are the k' rows that are nearest there to its own
    earlier embedding.

    It counts from when half of the second bank is known; images that are seen for the
    first time have no set. Memory: m D elements, and n D for the last embeddings of all
    images, of ``dtype`` (half precision: 131 MB + 1.3 GB for ImageNet and D = 512).

    Args:
        k: Rows k' in the set.
        dtype: Of both; None is that of the bank.
        share: See :class:`Constraint`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``k`` is not a whole number from 1 up to the bank's length.
    """

    last: FeatureBank
    earlier: KeyQueue

    def __init__(
        self,
        k: int = 5,
        dtype: str | None = None,
        share: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(share, init_cfg)
        self.k, self.dtype = k, dtype
        self.own = torch.empty(0)  # earlier embeddings of the step under way, M x D

    def __len__(self) -> int:
        return len(self.last)

    def join(self, rows: KeyQueue, dtype: str) -> None:
        """Make the second bank."""
        super().join(rows, dtype)
        length, dim = rows.keys.shape
        if not is_count(self.k) or self.k > length:
            raise UserValueError(
                f"constraint.k={self.k!r} rows are looked for among the {length} of "
                "the bank; set it to a whole number from 1 up to that."
            )
        dtype = self.dtype or dtype
        self.earlier = KeyQueue(length, dim, dtype=dtype, labels=True)  # 0: known
        self.last = FeatureBank(dim, dtype=dtype)

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images."""
        self.last.reserve(length, fingerprint)
        self.earlier.forget_images()

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint."""
        images = training.dataset
        if training.iteration == 0 or not len(self):
            self.prepare(len(images), images.fingerprint())
        self.last.check(images.fingerprint())

    def follow(self, keys: Tensor, index: Tensor) -> None:
        """Move the embeddings of before to the second bank."""
        self.own = self.last.read(index)  # M x D, 0 where an image was never seen
        self.earlier.enqueue(self.own, self.own.any(1).long() - 1)
        self.last.update(index, keys)

    def choose(self, u: Tensor, index: Tensor | None, k: int, place: int) -> Tensor:
        """See :class:`Constraint`."""
        own = self.own[place * len(u) : (place + 1) * len(u)]  # N x D
        assert self.earlier.labels is not None
        unknown = self.earlier.labels < 0  # m
        left_out = own.new_zeros(len(own), dtype=torch.long), unknown.long() - 1
        similarity, rows = queue_topk(own, self.earlier.keys, self.k, left_out)
        early = 2 * unknown.sum() > len(unknown)
        none = similarity.isneginf() | ~own.any(1, keepdim=True) | early
        return rows.masked_fill(none, -1)


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
class SameCluster(ByLabel):
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

    last: FeatureBank

    def __init__(
        self,
        num_clusters: int,
        interval: int = 1,
        num_iters: int = 20,
        dtype: str | None = None,
        share: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(share, init_cfg)
        self.pseudo_labels = OfflineLabels(num_clusters, interval, num_iters)
        self.dtype = dtype

    def join(self, rows: KeyQueue, dtype: str) -> None:
        """Make the bank of all images."""
        super().join(rows, dtype)
        self.last = FeatureBank(rows.keys.shape[1], dtype=self.dtype or dtype)

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images, without labels."""
        self.pseudo_labels.check_images(length)
        self.pseudo_labels.clear()
        self.last.reserve(length, fingerprint)
        self.table.write(self.table.labels.new_full((length,), -1), fingerprint)

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint."""
        if not training.by_epoch:
            raise UserValueError(
                "SameCluster clusters after an epoch, which this run has not; set "
                "by_epoch=True in train_cfg, or use EarlierNeighbours."
            )
        images = training.dataset
        if training.iteration == 0 or not len(self):
            self.prepare(len(images), images.fingerprint())
        self.last.check(images.fingerprint())

    def follow(self, keys: Tensor, index: Tensor) -> None:
        """Keep the targets by image."""
        self.last.update(index, keys)

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
