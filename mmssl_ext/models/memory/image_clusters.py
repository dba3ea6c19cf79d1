"""Clusters of all training images that are made anew now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dist import broadcast
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

from .clock import positions
from .feature_bank import FeatureBank
from .label_table import LabelTable
from .pseudo_labels import OfflineLabels

Choice = Callable[[FeatureBank, OfflineLabels], Tensor]


class ImageClusters(nn.Module):
    """The cluster of every image, at one or more levels, by its embedding at the time.

    All training images are embedded, un-augmented, and clustered by
    :class:`OfflineLabels`; the embeddings go, labels and centroids are kept.

    Args:
        levels: Numbers of clusters.
        num_iters: Iterations of k-means at most.
        who: Needs them, for messages.

    Attributes:
        levels: Clusters and centroids of each level.
        tables: The labels of each level that count, n, -1 where none does.
        clustered: Epoch that the last clustering was made for, from 1; shape 1.

    Raises:
        ValueError: ``levels`` are no numbers of clusters.
    """

    clustered: Tensor

    def __init__(
        self, levels: Sequence[int], num_iters: int = 20, who: str = ""
    ) -> None:
        super().__init__()
        numbers = isinstance(levels, Sequence) and len(levels) > 0
        if not numbers or not all(type(n) is int and n > 0 for n in levels):
            raise UserValueError(
                f"levels={levels!r} must be numbers of clusters, such as (1000, 5000)."
            )
        self.who = who
        self.levels: Any = nn.ModuleList(OfflineLabels(n, 1, num_iters) for n in levels)
        self.tables: Any = nn.ModuleList(LabelTable() for _ in levels)
        self.register_buffer("clustered", torch.zeros(1, dtype=torch.long))

    def __len__(self) -> int:
        """Number of the dataset's images; 0 before :meth:`prepare`."""
        return len(self.tables[0])

    @property
    def known(self) -> bool:
        """Whether there was a clustering."""
        return len(self.levels[0].labels) > 0

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images, without labels."""
        for level, table in zip(self.levels, self.tables, strict=True):
            level.check_images(length)
            level.clear()
            table.write(table.labels.new_full((length,), -1), fingerprint)
        self.clustered.zero_()

    def start(self, training: Any, images: dict | None) -> bool:
        """Find out about the images, or check that they are those of the checkpoint.

        Args:
            training: The run.
            images: How its images are read.

        Returns:
            Whether the images are new.

        Raises:
            ValueError: They are not those of the checkpoint, or the run cannot cluster
                them.
        """
        if not training.by_epoch:
            raise UserValueError(
                f"{self.who} clusters before an epoch, which this run has not; set "
                "by_epoch=True in train_cfg."
            )
        found = training.images(images, self.who)
        if new := training.iteration == 0 or not len(self):
            self.prepare(len(found), found.fingerprint)
        self.tables[0].check(found.fingerprint)
        return new

    def renew(
        self,
        training: Any,
        images: dict | None,
        encoder: str,
        choose: Choice | None = None,
    ) -> str:
        """Embed and cluster all images for the epoch that begins.

        Args:
            training: The run.
            images: How its images are read.
            encoder: ``query``, the online network, or ``key``, the target network.
            choose: See :meth:`cluster`.

        Returns:
            How long it took, in words.
        """
        started = time.perf_counter()
        found = training.images(images, self.who)
        features = found.embed(encoder)
        embedded = time.perf_counter()
        self.cluster(features, found.fingerprint, training.seed, choose)
        self.clustered.fill_(training.epoch + 1)
        return (
            f"embedded in {embedded - started:.1f} s, clustered in "
            f"{time.perf_counter() - embedded:.1f} s"
        )

    @torch.no_grad()
    def cluster(
        self,
        features: Tensor,
        fingerprint: int = 0,
        seed: int = 0,
        choose: Choice | None = None,
    ) -> None:
        """Label all images.

        Args:
            features: Embeddings by position in the dataset, n x D; equal on all ranks.
            fingerprint: Of the dataset.
            seed: Of the first clustering; later ones start from the centroids before.
            choose: Returns which labels of a level count, n, -1 for the others; None
                takes all.
        """
        bank = FeatureBank(features.shape[1]).to(self.clustered.device)
        bank.fill(features.to(self.clustered.device))
        for level, table in zip(self.levels, self.tables, strict=True):
            if len(level.labels):
                level.renew(bank)
            else:
                level.start(bank, seed)
            labels = level.labels.clone() if choose is None else choose(bank, level)
            broadcast(labels)  # rounding must not tell ranks apart
            table.write(labels, fingerprint)

    def positions(self, index: Tensor | None, call: str) -> Tensor:
        """Positions of a step's images in the dataset, N.

        Args:
            index: What the step knows of them.
            call: What a loop of a user's own has to call before the first step.

        Raises:
            ValueError: They are not known, or not in the dataset.
        """
        if not len(self):
            raise UserValueError(
                f"{self.who} does not know the dataset yet. SSLRunner and MethodHook "
                f"let it; in a loop of your own call {call} before the first step."
            )
        return positions(index, len(self), self.who)
