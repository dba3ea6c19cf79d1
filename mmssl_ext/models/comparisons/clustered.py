"""A queue whose images are clustered now and then (after IFND, 2106.03719)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..memory import FeatureBank, ImageClusters, OfflineLabels
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
        if type(warmup) is not int or warmup < 0 or not is_count(interval):
            raise UserValueError(
                f"warmup={warmup!r} and interval={interval!r} are epochs, whole "
                "numbers from 0 and from 1."
            )
        rate = {"kind": "linear", "start": 0, "end": 1} if rate is None else rate
        self.rate = schedule(rate, "rate", 0, 1)
        self.schedules = (self.rate,)
        self.warmup = self.first_epoch = warmup
        self.interval = interval
        self.confidence_temperature = check_positive(
            "confidence_temperature", confidence_temperature or temperature
        )
        self.images = images
        self.clusters = ImageClusters(levels, num_iters, type(self).__name__)

    def attach(self, method: Method) -> None:
        """Make the queue."""
        super().attach(method)
        self.encoder = "key" if method.target.encodes else "query"

    @property
    def pseudo_labels(self) -> OfflineLabels:
        """Those of the first level, for who looks on."""
        return self.clusters.levels[0]

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images, without labels."""
        self.clusters.prepare(length, fingerprint)
        self.queue.forget_images()

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint.

        Raises:
            ValueError: They are not, or the run cannot cluster them.
        """
        training.now(self.rate)  # a schedule that cannot be read is refused here
        if self.clusters.start(training, self.images):
            self.queue.forget_images()

    def start_epoch(self, training: Any, weight: float) -> None:
        """Cluster when it is time."""
        epoch, rate = training.epoch, training.now(self.rate)
        due = epoch >= self.warmup and (epoch - self.warmup) % self.interval == 0
        if not (due and rate and weight) or int(self.clusters.clustered) > epoch:
            return
        choose = self.surest(rate)
        took = self.clusters.renew(training, self.images, self.encoder, choose)
        training.logger.info(
            f"False negatives: labels of {rate:.1%} of {len(self.clusters)} images at "
            f"{len(self.clusters.levels)} levels; {took}."
        )

    def surest(self, rate: float) -> Any:
        """What lets the labels of the share ``rate`` of the images count."""

        def choose(bank: FeatureBank, level: OfflineLabels) -> Tensor:
            known = bank.features, level.labels, level.centroids
            return accept(
                level.labels, confidence(*known, self.confidence_temperature), rate
            )

        return choose

    def cluster(self, features: Tensor, rate: float, seed: int = 0) -> None:
        """Label all images, n x D embeddings by position; the share ``rate`` counts."""
        self.clusters.cluster(features, seed=seed, choose=self.surest(rate))

    def labels(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """Labels of a step's images, N, and of the slots, K, at each level.

        None before the first clustering.
        """
        if not self.clusters.known:
            return []
        index, slots = self.positions(step), self.queue.index
        assert slots is not None
        return [(table.of(index), table.of(slots)) for table in self.clusters.tables]

    def count(self, labels: tuple[Tensor, Tensor]) -> Tensor:
        """Mean number of slots that have a query's label of the first level."""
        rows, slots = labels
        sizes = rows.new_zeros(self.pseudo_labels.num_clusters)  # of the slots
        sizes.index_add_(0, slots.clamp(min=0), (slots >= 0).long())
        return (sizes[rows.clamp(min=0)] * (rows >= 0)).float().mean()

    def positions(self, step: Step) -> Tensor:
        """Positions of a step's images in the dataset, N.

        Raises:
            ValueError: They are not known, or not in the dataset.
        """
        return self.clusters.positions(step.index, "compare.prepare")

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, one view after the other, and their images."""
        index = self.positions(step).repeat(len(method.target_views))
        return super().collect(method, step) | {"index": index}

    def remember(self, found: Features) -> None:
        """Let the targets be negatives from the next step on."""
        self.queue.enqueue(**found)
