"""Prototypes of clusters, scattered over the sphere (ProPos, arXiv 2111.11821)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import gather_rows, unit
from ..losses import prototype_scattering
from ..memory import ImageClusters, KeyQueue, PseudoLabels
from ..memory.clock import positions
from ..part import Features, check_positive, is_count
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class PrototypeScattering(Term):
    """The mean projection of a cluster must be that of its targets, and no other's.

    See :func:`~mmssl_ext.models.losses.prototype_scattering`; over all pairs, with the
    images of all ranks. Before the first epoch in which the term has a weight, and
    every ``interval`` epochs from then on, all images are embedded by the target in
    eval mode, un-augmented, and clustered. How many clusters a step saw goes to the
    log.

    Args:
        num_clusters: Number of clusters; None takes the pseudo-labels that the base or
            another term keeps (``InterImage``, ``FalseNegativeSoftmax``,
            ``SameCluster``).
        images: How the images are read, as for ``InterImage``.
        temperature: T.
        interval: Epochs between two clusterings.
        num_iters: Iterations of k-means at most.
        queue_len: Earlier targets that join the means, for more clusters than a batch
            has images of; 0 is none.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    name = "scattering"

    def __init__(
        self,
        num_clusters: int | None = None,
        images: dict | None = None,
        temperature: float = 0.5,
        interval: int = 1,
        num_iters: int = 300,
        queue_len: int = 0,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        several = num_clusters is None or (is_count(num_clusters) and num_clusters > 1)
        queued = type(queue_len) is int and queue_len >= 0
        if not (several and queued and is_count(interval) and is_count(num_iters)):
            raise UserValueError(
                f"num_clusters={num_clusters!r} of PrototypeScattering must be 2 or "
                f"more, or None; interval={interval!r} and num_iters={num_iters!r} 1 "
                f"or more, and queue_len={queue_len!r} 0 or more."
            )
        self.temperature = check_positive("temperature", temperature)
        self.images, self.interval, self.queue_len = images, interval, queue_len
        self.clusters: ImageClusters | None = None
        if num_clusters is not None:
            who = type(self).__name__
            self.clusters = ImageClusters((num_clusters,), num_iters, who)

    def attach(self, method: Method) -> None:
        """Find the labels; make the queue.

        Raises:
            ValueError: There are none, or the targets are of another size.
        """
        if method.target.dim not in (None, method.dim):
            raise UserValueError(
                "PrototypeScattering compares means of projections and of targets, "
                f"which a {type(method.target).__name__} makes of another size; take "
                "another target or leave the term out."
            )
        self.encoder = "key" if method.target.encodes else "query"
        if self.queue_len:
            self.queue = KeyQueue(self.queue_len, method.dim, index=True)
        if self.clusters is not None:
            return
        others = (part for part in method.losing.values() if part is not self)
        known = (getattr(part, "pseudo_labels", None) for part in others)
        # In a tuple: no module of this one.
        self._others = tuple(labels for labels in known if labels is not None)
        if not self._others:
            raise UserValueError(
                f"PrototypeScattering has no clusters, for {type(method).__name__} "
                "keeps none: set its num_clusters and images."
            )

    @property
    def pseudo_labels(self) -> PseudoLabels | None:
        """The labels, its own or the base's; None before :meth:`attach`."""
        if self.clusters is not None:
            return self.clusters.levels[0]
        return next(iter(getattr(self, "_others", ())), None)

    def start(self, training: Any) -> None:
        """Find out about the images, or check that they are those of the checkpoint."""
        new = training.iteration == 0
        if self.clusters is not None:
            new = self.clusters.start(training, self.images)
        if new and self.queue_len:
            self.queue.forget_images()

    def start_epoch(self, training: Any, weight: float) -> None:
        """Cluster when it is time."""
        if self.clusters is None or not weight:
            return
        last = int(self.clusters.clustered)
        if last and training.epoch + 1 - last < self.interval:
            return
        took = self.clusters.renew(training, self.images, self.encoder)
        training.logger.info(
            f"Prototypes: {self.clusters.levels[0].num_clusters} clusters of "
            f"{len(self.clusters)} images; {took}."
        )

    def positions(self, step: Step) -> Tensor:
        """Positions of a step's images in the dataset, N."""
        if self.clusters is not None:
            call = "terms.scattering.clusters.prepare"
            return self.clusters.positions(step.index, call)
        assert self.pseudo_labels is not None
        known = len(self.pseudo_labels.labels) or torch.iinfo(torch.long).max
        return positions(step.index, known, type(self).__name__)

    def label(self, index: Tensor) -> Tensor:
        """Clusters of images by their positions, long; -1 where none is known."""
        assert self.pseudo_labels is not None
        labels = self.pseudo_labels.labels
        if not len(labels):
            return torch.full_like(index, -1)
        return labels[index.clamp(min=0)].long().masked_fill(index < 0, -1)

    def forward(self, method: Method, step: Step) -> Tensor:
        """Loss of the pairs; ``clusters_seen`` goes to the log."""
        assert self.pseudo_labels is not None
        labels = gather_rows(self.label(self.positions(step)))  # M, of all ranks
        settings = labels, self.pseudo_labels.num_clusters, self.temperature
        queue = None
        if self.queue_len:
            assert self.queue.index is not None
            queue = self.queue.keys, self.label(self.queue.index)
        losses, seen = [], []
        for a, b in method.pairs:
            z = gather_rows(unit(step.online[a]["projection"]))  # M x D
            k = gather_rows(step.target[b]["embedding"].detach())
            loss, number = prototype_scattering(z, k, *settings, queue)
            losses.append(loss)
            seen.append(number)
        step.figures["clusters_seen"] = torch.stack(seen).mean()
        return method.over_pairs(losses)

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, one view after the other, and their images."""
        if not self.queue_len:
            return {}
        index = self.positions(step).repeat(len(method.target_views))
        return {"keys": method.targets(step, "embedding"), "index": index}

    def remember(self, found: Features) -> None:
        """Let the targets be in the queue from the next step on."""
        self.queue.enqueue(**found)
