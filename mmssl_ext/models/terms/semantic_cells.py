"""Semantic classes of cells: the two variants of the category loss of DSC.

Inspired by arXiv 2109.07756, of which the abstract alone could be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_gather, all_reduce, broadcast, get_rank, get_world_size
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..losses import class_contrast, match_cells, sinkhorn, take_cells
from ..memory import KeyQueue, StepCounter
from ..memory.kmeans import cluster_sizes, cluster_sums, means, spherical_kmeans
from ..part import Features, check_positive, is_count
from .base import Term
from .dense import Dense

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class SemanticCells(Term):
    """A term on the cells of the term :class:`Dense`, which the method must have.

    The class of a cell is that of the key cell which looks most like it.
    """

    name = "semantic"
    needs_features = True

    def attach(self, method: Method) -> None:
        """Refuse methods without dense projections.

        Raises:
            ValueError: They have none.
        """
        if not any(isinstance(term, Dense) for term in method.terms.values()):
            raise UserValueError(
                f"The term {type(self).__name__} compares the cells that the term "
                "Dense projects; add dict(type='Dense') or dict(type='DenseNeighbours')"
                " to terms, or take type='DSC'."
            )


@MODELS.register_module()
class CellPrototypes(SemanticCells):
    """Each cell must find the prototypes that its match has been given: DSC-PM.

        Q = sinkhorn(t P^T / eps)            cells of all ranks x K, no gradient
        L = mean_n,a CE(softmax(r_na P^T / T), Q[n, b*(a)])

    P, K x D, are trained; their rows are normalised where they are used. How many
    prototypes the cells would use without the balance goes to the log.

    Args:
        num_prototypes: K; well below the cells of all GPUs in a step.
        temperature: T.
        epsilon: eps of the balanced codes.
        num_iters: Iterations of the balance.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(
        self,
        num_prototypes: int = 2048,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        num_iters: int = 3,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        _check_counts(self, num_prototypes=num_prototypes, num_iters=num_iters)
        self.num_prototypes, self.num_iters = num_prototypes, num_iters
        self.temperature = check_positive("temperature", temperature)
        self.epsilon = check_positive("epsilon", epsilon)

    def attach(self, method: Method) -> None:
        """Make the prototypes."""
        super().attach(method)
        self.prototypes = nn.Linear(method.dim, self.num_prototypes, bias=False)

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the pairs, the images and the cells."""
        prototypes = unit(self.prototypes.weight)  # K x D
        codes, used = {}, []
        with torch.autocast(prototypes.device.type, enabled=False):
            for b in method.target_views:
                # In one order in memory, whatever way it came: products round alike.
                t = step.target[b]["dense"].detach().contiguous()  # N x S^2 x D
                scores = t.flatten(0, 1) @ prototypes.detach().T
                found = sinkhorn(scores, self.epsilon, self.num_iters)
                codes[b] = found.view(*t.shape[:2], -1)  # N x S^2 x K
                used.append((scores / self.temperature).softmax(1).mean(0))
            losses = []
            for a, b in method.pairs:
                query = step.online[a]
                match = match_cells(query["cells"], step.target[b]["cells"])
                code = take_cells(codes[b], match)
                logits = query["dense"] @ prototypes.T / self.temperature
                losses.append(-(code * log_softmax(logits, 2)).sum(2).mean())
        share = torch.stack(used).mean(0)  # K
        all_reduce(share, "mean")
        step.figures["prototypes_used"] = torch.special.entr(share).sum().exp()
        return method.over_pairs(losses)


@MODELS.register_module()
class CellClusters(SemanticCells):
    """Each cell must be nearer to cells of its cluster, in other images: DSC-KM.

        y_na = argmax_k M_k . t_n,b*(a)
        L = mean_na [ logsumexp_o(r_na . t_o / T) - mean_p(r_na . t_p / T) ]

    o are matched key cells of the batch of all ranks, p those of o with y_p = y_na.
    Cells without such a p are left out. M, K x D, are centroids of key cells of earlier
    steps, one of each image, clustered by spherical k-means after every ``interval``
    epochs; before that the loss is 0. The share of cells that have a p goes to the log.

    Args:
        num_clusters: K.
        temperature: T.
        num_cells: Cells of each image and view that are drawn; None takes all.
        same_image: Let o be in the same image, too, but for the cell itself.
        interval: Epochs between two clusterings.
        queue_len: Cells that are clustered.
        num_iters: Iterations of k-means at most.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    centroids: Tensor

    def __init__(
        self,
        num_clusters: int = 2048,
        temperature: float = 0.2,
        num_cells: int | None = 8,
        same_image: bool = False,
        interval: int = 1,
        queue_len: int = 65536,
        num_iters: int = 20,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        counts = {"num_clusters": num_clusters, "interval": interval}
        counts |= {"num_iters": num_iters, "queue_len": queue_len}
        _check_counts(self, num_cells=1 if num_cells is None else num_cells, **counts)
        if queue_len < num_clusters:
            raise UserValueError(
                f"num_clusters={num_clusters} clusters cannot be made of queue_len="
                f"{queue_len} cells; raise queue_len, to some 32 per cluster."
            )
        self.num_clusters, self.num_cells = num_clusters, num_cells
        self.queue_len, self.interval, self.num_iters = queue_len, interval, num_iters
        self.first_epoch = interval
        self.temperature = check_positive("temperature", temperature)
        self.same_image = same_image
        self.clusterings = StepCounter()

    def attach(self, method: Method) -> None:
        """Make the queue and the centroids, still without meaning."""
        super().attach(method)
        self.queue = KeyQueue(self.queue_len, method.dim, labels=True)
        self.register_buffer("centroids", torch.zeros(self.num_clusters, method.dim))

    def start(self, training: Any) -> None:
        """Begin anew in a new run.

        Raises:
            ValueError: The run counts no epochs.
        """
        if not training.by_epoch:
            raise UserValueError(
                "CellClusters clusters after epochs, which this run has not; set "
                "by_epoch=True in train_cfg, or use CellPrototypes."
            )
        if training.iteration == 0:  # load_from brought those of another along
            self.queue.forget_images()
            self.clusterings.num_steps = 0
            self.clusterings.steps.zero_()

    def end_epoch(self, training: Any) -> None:
        """Cluster at the interval, and say how even the clusters are."""
        if (training.epoch + 1) % self.interval:
            return
        if (sizes := self.cluster(training.seed)) is None:
            training.logger.warning(
                f"Fewer cells were seen than there are to be clusters: lower "
                f"num_clusters={self.num_clusters} of CellClusters."
            )
        else:
            training.logger.info(
                f"{len(sizes)} clusters of {int(sizes.sum())} cells: "
                f"{int(sizes.min())} to {int(sizes.max())} cells each."
            )

    @torch.no_grad()
    def cluster(self, seed: int = 0) -> Tensor | None:
        """Cluster the cells that were seen; rank 0 does it for all.

        Returns:
            Sizes of the clusters, K; None where there are too few cells.
        """
        assert self.queue.labels is not None
        cells = self.queue.keys[self.queue.labels >= 0]
        if len(cells) < self.num_clusters:
            return None
        labels = torch.empty_like(cells[:, 0], dtype=torch.int32)
        if get_rank() == 0:
            old = unit(self.centroids).float() if self.clusterings.num_steps else None
            labels = spherical_kmeans(
                cells, self.num_clusters, self.num_iters, seed, old
            )
        broadcast(labels)
        sizes = cluster_sizes(labels, self.num_clusters)
        sums = cluster_sums(cells, labels, self.num_clusters)
        self.centroids.copy_(unit(means(sums, sizes)))
        self.clusterings.count_step()
        return sizes

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the pairs and the cells that have a candidate of their class."""
        losses, shares = [], []
        for a, b in method.pairs:
            query, key = step.online[a], step.target[b]
            r, t = self.draw(method, query, key)  # N x c x D
            if not self.clusterings.num_steps:
                losses.append((0 * r).sum())
                continue
            loss, found = self.contrast(r, t)
            # Cells that have one count alike, on whichever rank they are.
            share = found.to(loss).mean()
            all_reduce(share, "mean")
            losses.append(loss.mean() / share.clamp(min=1e-6))
            shares.append(share)
        if shares:
            step.figures["same_class"] = torch.stack(shares).mean()
        return method.over_pairs(losses)

    def contrast(self, r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of drawn cells N x c x D by their matches; those that have one."""
        with torch.autocast(t.device.type, enabled=False):
            labels = (t @ self.centroids.to(t).T).argmax(2)  # N x c
        count, c = labels.shape
        ours = torch.arange(count, device=t.device) + get_rank() * count
        images = ours[:, None].expand(-1, c)  # N x c, of all ranks
        cells = torch.arange(count * c, device=t.device) + get_rank() * count * c
        own = images.flatten() if not self.same_image else cells
        rows = [labels.flatten(), own]
        everyone = [_all(x) for x in (t.flatten(0, 1), *rows)]
        same, others = (
            x[:, None] == y for x, y in zip(rows, everyone[1:], strict=True)
        )
        return class_contrast(
            r.flatten(0, 1), everyone[0], same, ~others, self.temperature
        )

    def draw(
        self, method: Method, query: Features, key: Features
    ) -> tuple[Tensor, Tensor]:
        """Drawn cells of a query view and their matches, N x c x D, these constant."""
        r, t = query["dense"], key["dense"].detach()
        match = match_cells(query["cells"], key["cells"])  # N x S^2
        if self.num_cells is not None and self.num_cells < r.shape[1]:
            order = _noise(method, r).argsort(1)
            places = order[:, : self.num_cells]  # N x c
            r, match = take_cells(r, places), match.gather(1, places)
        return r, take_cells(t, match)

    def collect(self, method: Method, step: Step) -> Features:
        """One key cell of each image and target view, to be clustered."""
        cells = method.targets(step, "dense")  # N V x S^2 x D
        place = _noise(method, cells).argmax(1)
        return {"cells": take_cells(cells, place[:, None])[:, 0]}

    def remember(self, found: Features) -> None:
        """Let them be in the next clustering."""
        known = torch.zeros_like(found["cells"][:, 0], dtype=torch.long)
        self.queue.enqueue(found["cells"], labels=known)


def _all(x: Tensor) -> Tensor:
    """Rows of all ranks, constant."""
    return torch.cat(all_gather(x.contiguous())) if get_world_size() > 1 else x


def _noise(method: Method, cells: Tensor) -> Tensor:
    """This rank's part of what one process would draw for the whole batch, N x S^2."""
    generator = torch.Generator(cells.device)
    generator.manual_seed(method.clock.draw_seed)  # equal on all ranks
    shape = get_world_size(), *cells.shape[:2]
    return torch.rand(shape, generator=generator, device=cells.device)[get_rank()]


def _check_counts(term: Term, **counts: Any) -> None:
    for key, count in counts.items():
        if not is_count(count):
            raise UserValueError(
                f"{key}={count!r} of the term {type(term).__name__} must be a whole "
                "number above 0."
            )
