"""DenseCL: dense contrastive learning.

Paper: arXiv 2011.09157 (CVPR 2021), on MoCo v2.

A second head keeps the feature map. Each of its cells must pick, out of a queue of
other images' cells, that cell of the other view which looks most like it. The match is
found in backbone features, so no geometry is needed.

    F_q, F_k                                    N x C x S x S, backbone maps
    q, k     = normalise(mlp(mean F))           N x D
    r, t     = normalise(mlp_dense(F))          N x S^2 x D, a vector per cell
    tbar     = normalise(mean_cells mlp_dense(F_k))         N x D, goes to queue 2
    c[n, a]  = argmax_b cos(F_q[n, a], F_k[n, b])           N x S^2
    L_global = mean_n    InfoNCE(q_n, k_n, queue)
    L_dense  = mean_n,a  InfoNCE(r_na, t_n,c[n,a], queue 2)
    L = (1 - lambda) L_global + lambda L_dense,  lambda = 0.5, first 0

Differs from the reference code:
* ``DenseCLHook`` stands in the configs: the paper starts with lambda = 0 (10,000
  iterations, the author's word), the released configs left it out;
* with ``num_grid`` the matching uses maps pooled like the dense features; the reference
  matches on the unpooled maps and then takes wrong cells or none;
* whatever is encoded from a shuffled batch is put in order again, all of it.
"""

from typing import Any

import torch
from torch import Tensor

from mmssl_ext.registry import MODELS

from ..layers import unit
from ..losses import match_cells, take_cells
from ..memory import KeyQueue
from .base import Features
from .moco import MoCo


@MODELS.register_module()
class DenseCL(MoCo):
    """MoCo plus a dense branch.

    Args:
        loss_lambda: Weight of the dense loss; the global one has 1 - lambda.
            mmpretrain's ``DenseCLHook(start_iters=...)`` holds it at 0 at first.
        **kwargs: As for :class:`MoCo`; ``neck`` is mmpretrain's ``DenseCLNeck``, whose
            ``num_grid`` sets S (None: that of the feature map). ``head`` serves both
            losses.

    Raises:
        ValueError: ``loss_lambda`` is outside [0, 1], or the neck has no dense branch.
    """

    def __init__(self, loss_lambda: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= loss_lambda <= 1:
            raise ValueError(
                f"loss_lambda={loss_lambda} is the share of the dense loss and must "
                "lie in [0, 1]; 0.5 is the paper's."
            )
        if not hasattr(self.neck, "mlp2"):
            raise ValueError(
                f"{type(self.neck).__name__} has no dense branch; set neck.type to "
                "DenseCLNeck."
            )
        self.loss_lambda = loss_lambda
        length, dim = self.queue.keys.shape
        self.dense_queue = KeyQueue(length, dim)

    def encode(self, encoder: Any, view: Tensor) -> Features:
        """``embedding`` (N x D), and unit rows per cell and image.

        ``dense`` (N x S^2 x D) and ``dense_mean`` (N x D) are projections, ``cells``
        (N x S^2 x C) the backbone's features, without gradient, for the match.
        """
        maps = encoder.backbone(view)
        embedding, dense, pooled = encoder.neck(maps)  # N x D, N x D x S^2, N x D
        cells = self.grid(maps).detach().flatten(2)  # N x C x S^2
        return {
            "embedding": unit(embedding),
            "dense": unit(dense, 1).transpose(1, 2),
            "dense_mean": unit(pooled),
            "cells": unit(cells, 1).transpose(1, 2),
        }

    def grid(self, maps: tuple[Tensor, ...]) -> Tensor:
        """The last backbone map at the resolution of the dense branch."""
        return self.neck.pool(maps[-1]) if self.neck.with_pool else maps[-1]

    def contrast(self, query: Features, key: Features) -> dict[str, Tensor]:
        """``loss_instance`` and ``loss_dense``, weighted; ``nce_*`` are not."""
        nce = super().contrast(query, key)["loss_instance"]
        match = match_cells(query["cells"], key["cells"])  # N x S^2
        positives = take_cells(key["dense"], match)  # N x S^2 x D
        r, t = query["dense"].flatten(0, 1), positives.flatten(0, 1)  # N*S^2 x D
        nce_dense = self.head.loss(r, t, self.dense_queue.keys)
        return {
            "loss_instance": (1 - self.loss_lambda) * nce,
            "loss_dense": self.loss_lambda * nce_dense,
            "nce_instance": nce.detach(),
            "nce_dense": nce_dense.detach(),
        }

    def enqueue(self, key: Features) -> None:
        """Fill both queues."""
        super().enqueue(key)
        self.dense_queue.enqueue(key["dense_mean"])

    @torch.no_grad()
    def inspect(self, inputs: list[Tensor]) -> dict[str, Any]:
        """Matched cells of two views.

        Returns:
            ``grid`` (h, w), ``match`` (key cell of every query cell, N x h*w) and
            ``similarity`` (cosine of the backbone features of each pair, N x h*w).
        """
        self.check_views(inputs)
        query, key = (
            self.encode(self, inputs[0]),
            self.encode(self.encoder_k, inputs[1]),
        )
        match = match_cells(query["cells"], key["cells"])
        similarity = (query["cells"] * take_cells(key["cells"], match)).sum(2)
        grid = tuple(self.grid(self.backbone(inputs[0])).shape[-2:])
        return {"grid": grid, "match": match, "similarity": similarity}
