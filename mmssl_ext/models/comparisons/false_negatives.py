"""InfoNCE without the negatives of the query's own cluster (after IFND, 2106.03719)."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import broadcast
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import info_nce, queue_logsumexp, same_label_sums, soft_nce
from ..memory import FeatureBank, LabelTable, OfflineLabels
from ..memory.clock import positions
from ..part import Features, check_positive, is_count
from ..schedules import schedule
from .queue import QueueSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step

_WHO = "FalseNegativeSoftmax"
_ROWS = 65536  # whose confidence is computed at once


@MODELS.register_module()
class FalseNegativeSoftmax(QueueSoftmax):
    """``QueueSoftmax`` that knows which keys may be of the query's class.

    All training images are embedded now and then by the target, un-augmented, and
    clustered at several levels. Slots of the query's cluster are false negatives; the
    loss is the mean over the levels. Only labels that are confident enough count, more
    and more of them: the share ``rate`` of the images. While there are none the loss is
    that of ``QueueSoftmax``, to the last bit.

    Args:
        temperature: T.
        length: Number of keys K.
        levels: Numbers of clusters.
        action: ``"eliminate"``: false negatives leave the denominator. ``"attract"``:
            they are positives, too, with the weight of the own one each.
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
        action: str = "eliminate",
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
        if action not in ("eliminate", "attract"):
            raise UserValueError(
                f"action={action!r} must be one of eliminate, attract: false negatives "
                "leave the denominator, or become positives."
            )
        if type(warmup) is not int or warmup < 0 or not is_count(interval):
            raise UserValueError(
                f"warmup={warmup!r} and interval={interval!r} are epochs, whole "
                "numbers from 0 and from 1."
            )
        rate = {"kind": "linear", "start": 0, "end": 1} if rate is None else rate
        self.rate = schedule(rate, "rate", 0, 1)
        self.schedules = (self.rate,)
        self.action, self.warmup, self.interval = action, warmup, interval
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
                f"{_WHO} clusters before an epoch, which this run has not; set "
                "by_epoch=True in train_cfg."
            )
        training.now(self.rate)  # a schedule that cannot be read is refused here
        images = training.images(self.images, _WHO)
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
        images = training.images(self.images, _WHO)
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

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """Mean loss of the pairs; ``false_negatives`` of a query goes to the log."""
        if not len(self.levels[0].labels):
            return super().forward(method, step)
        index, slots = self.positions(step), self.queue.index
        assert slots is not None
        labels = [(table.of(index), table.of(slots)) for table in self.tables]
        losses = []
        for a, b in method.pairs:
            q, k = step.online[a]["embedding"], step.target[b]["embedding"]
            parts = [self.level(q, k, names) for names in labels]
            losses.append(torch.stack(parts).mean())
        step.figures["false_negatives"] = self.count(labels[0])
        return {"instance": method.over_pairs(losses)}

    def level(self, q: Tensor, k: Tensor, labels: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of N x D queries with labels of queries and slots, N and K."""
        queue = self.queue.keys
        if self.action == "eliminate":
            return info_nce(q, k, queue, self.temperature, labels=labels).mean()
        sums, counts = same_label_sums(queue, labels)
        mean = (k.detach() + sums) / (1 + counts)[:, None]  # of the positives, N x D
        return soft_nce(q, mean, queue, self.temperature, positives=k).mean()

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
                f"{_WHO} does not know the dataset yet. SSLRunner and MethodHook let "
                "it; in a loop of your own call compare.prepare before the first step."
            )
        return positions(step.index, len(self.tables[0]), _WHO)

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, one view after the other, and their images."""
        index = self.positions(step).repeat(len(method.target_views))
        return super().collect(method, step) | {"index": index}

    def remember(self, found: Features) -> None:
        """Let the targets be negatives from the next step on."""
        self.queue.enqueue(**found)


def confidence(
    features: Tensor, labels: Tensor, centroids: Tensor, temperature: float
) -> Tensor:
    """``softmax_j(e_i.c_j / T_c)`` at the label of each image, n, in (0, 1).

    Args:
        features: e, n x D unit rows.
        labels: Cluster of each image, n.
        centroids: c, C x D, of any length.
        temperature: T_c.
    """
    centroids = normalize(centroids, dim=1)
    found = []
    for rows, names in zip(features.split(_ROWS), labels.split(_ROWS), strict=True):
        own = (rows * centroids[names.long()]).sum(1) / temperature
        found.append((own - queue_logsumexp(rows, centroids, temperature)).exp())
    return torch.cat(found)


def accept(labels: Tensor, sure: Tensor, rate: float) -> Tensor:
    """The labels of the share ``rate`` of the images, n, that are surest, else -1.

    Of equally sure ones the first count.
    """
    count = math.ceil(rate * len(labels) - 1e-9)
    chosen = sure.argsort(descending=True, stable=True)[:count]
    return torch.full_like(labels, -1).index_copy_(0, chosen, labels[chosen])
