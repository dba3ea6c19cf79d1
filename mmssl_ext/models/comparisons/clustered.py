"""A queue whose images are clustered now and then (after IFND, 2106.03719)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import broadcast
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError

from ..memory import FeatureBank, LabelTable, OfflineLabels
from ..memory.clock import positions
from ..memory.confidence import accept, confidence
from ..part import Features, check_positive, is_count
from ..schedules import schedule
from .queue import QueueSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class ClusteredQueue(QueueSoftmax):
    """``QueueSoftmax`` that knows the cluster of every image, at several levels.

    All training images are embedded now and then by the target, un-augmented, and
    clustered. Only labels that are confident enough count, more and more of them: the
    share ``rate`` of the images.

    Args:
        temperature: T.
        length: Number of keys K.
        levels: Numbers of clusters.
        rate: Share of the images whose labels count: a number, or a
            :class:`~mmssl_ext.models.schedules.Schedule`.
        warmup: Epochs before the first clustering.
        interval: Epochs between two clusterings.
        num_iters: Iterations of k-means at most.
        confidence_temperature: T_c of the confidence, the softmax of the similarities
            to the centroids; None is T.
        images: How the images are read, as for ``InterImage``.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    keeps_images = True
    clustered: Tensor

    def __init__(
        self,
        temperature: float = 0.2,
        length: int = 65536,
        levels: Sequence[int] = (1000, 5000, 25_000),
        rate: Any = None,
        warmup: int = 20,
        interval: int = 5,
        num_iters: int = 20,
        confidence_temperature: float | None = None,
        images: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(temperature, length, init_cfg)
        if not isinstance(levels, Sequence) or not all(map(is_count, levels or [0])):
            raise UserValueError(
                f"levels={levels!r} must be numbers of clusters, such as (1000, 5000)."
            )
        if type(warmup) is not int or warmup < 0 or not is_count(interval):
            raise UserValueError(
                f"warmup={warmup!r} and interval={interval!r} are epochs, whole "
                "numbers from 0 and from 1."
            )
        rate = {"kind": "linear", "start": 0, "end": 1} if rate is None else rate
        self.rate = schedule(rate, "rate", 0, 1)
        self.schedules = (self.rate,)
        self.warmup, self.interval = warmup, interval
        self.confidence_temperature = check_positive(
            "confidence_temperature", confidence_temperature or temperature
        )
        self.images = images
        self.levels: Any = nn.ModuleList(OfflineLabels(n, 1, num_iters) for n in levels)
        self.tables: Any = nn.ModuleList(LabelTable() for _ in levels)
        # Epoch that the last clustering was made for, from 1.
        self.register_buffer("clustered", torch.zeros(1, dtype=torch.long))

    def attach(self, method: Method) -> None:
        """Make the queue."""
        super().attach(method)
        self.encoder = "key" if method.target.encodes else "query"

    @property
    def pseudo_labels(self) -> Any:
        """Those of the first level, for who looks on."""
        return self.levels[0]

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images, without labels."""
        for level, table in zip(self.levels, self.tables, strict=True):
            level.check_images(length)
            level.clear()
            table.write(table.labels.new_full((length,), -1), fingerprint)
        self.queue.forget_images()
        self.clustered.zero_()

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint.

        Raises:
            ValueError: They are not, or the run cannot cluster them.
        """
        if not training.by_epoch:
            raise UserValueError(
                f"{type(self).__name__} clusters before an epoch, which this run has "
                "not; set by_epoch=True in train_cfg."
            )
        training.now(self.rate)  # a schedule that cannot be read is refused here
        images = training.images(self.images, type(self).__name__)
        if training.iteration == 0 or not len(self.tables[0]):
            self.prepare(len(images), images.fingerprint)
        self.tables[0].check(images.fingerprint)

    def start_epoch(self, training: Any, weight: float) -> None:
        """Cluster when it is time."""
        epoch, rate = training.epoch, training.now(self.rate)
        due = epoch >= self.warmup and (epoch - self.warmup) % self.interval == 0
        if not (due and rate and weight) or int(self.clustered) > epoch:
            return
        started = time.perf_counter()
        images = training.images(self.images, type(self).__name__)
        features = images.embed(self.encoder)
        embedded = time.perf_counter()
        self.cluster(features, rate, images.fingerprint, training.seed)
        self.clustered.fill_(epoch + 1)
        training.logger.info(
            f"False negatives: labels of {rate:.1%} of {len(features)} images at "
            f"{len(self.levels)} levels; embedded in {embedded - started:.1f} s, "
            f"clustered in {time.perf_counter() - embedded:.1f} s."
        )

    @torch.no_grad()
    def cluster(
        self, features: Tensor, rate: float, fingerprint: int = 0, seed: int = 0
    ) -> None:
        """Label all images, n x D embeddings by position; the share ``rate`` counts."""
        bank = FeatureBank(features.shape[1]).to(self.queue.keys.device)
        bank.fill(features.to(bank.features.device))
        for level, table in zip(self.levels, self.tables, strict=True):
            if len(level.labels):
                level.renew(bank)
            else:
                level.start(bank, seed)
            sure = confidence(
                *(bank.features, level.labels, level.centroids),
                self.confidence_temperature,
            )
            labels = accept(level.labels, sure, rate)
            broadcast(labels)  # rounding must not tell ranks apart
            table.write(labels, fingerprint)

    def labels(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """Labels of a step's images, N, and of the slots, K, at each level.

        None before the first clustering.
        """
        if not len(self.levels[0].labels):
            return []
        index, slots = self.positions(step), self.queue.index
        assert slots is not None
        return [(table.of(index), table.of(slots)) for table in self.tables]

    def count(self, labels: tuple[Tensor, Tensor]) -> Tensor:
        """Mean number of slots that have a query's label of the first level."""
        rows, slots = labels
        sizes = rows.new_zeros(self.levels[0].num_clusters)  # of the slots
        sizes.index_add_(0, slots.clamp(min=0), (slots >= 0).long())
        return (sizes[rows.clamp(min=0)] * (rows >= 0)).float().mean()

    def positions(self, step: Step) -> Tensor:
        """Positions of a step's images in the dataset, N.

        Raises:
            ValueError: They are not known, or not in the dataset.
        """
        if not len(self.tables[0]):
            raise UserValueError(
                f"{type(self).__name__} does not know the dataset yet. SSLRunner and "
                "MethodHook let it; in a loop of your own call compare.prepare before "
                "the first step."
            )
        return positions(step.index, len(self.tables[0]), type(self).__name__)

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, one view after the other, and their images."""
        index = self.positions(step).repeat(len(method.target_views))
        return super().collect(method, step) | {"index": index}

    def remember(self, found: Features) -> None:
        """Let the targets be negatives from the next step on."""
        self.queue.enqueue(**found)
