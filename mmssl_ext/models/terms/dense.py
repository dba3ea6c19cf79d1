"""The dense branch of DenseCL (arXiv 2011.09157)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..losses import info_nce, match_cells, take_cells
from ..memory import KeyQueue
from ..part import Features, check_positive, is_count
from .base import QUEUE_LEN, Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step

_TEMPERATURE = 0.2  # where the base has none


class DenseHead(BaseModule):
    """A projection head that keeps the map: two convolutions of 1 x 1 (section 3.2).

    Args:
        in_channels: Channels C of the map.
        hid_channels: Hidden width.
        out_channels: D.
        num_grid: Side S to which the map is pooled first; None leaves it.
    """

    def __init__(
        self, in_channels: int, hid_channels: int, out_channels: int, num_grid: Any
    ) -> None:
        super().__init__()
        self.pool: Any = (
            nn.Identity() if num_grid is None else nn.AdaptiveAvgPool2d(num_grid)
        )
        self.mlp = nn.Sequential(
            nn.Conv2d(in_channels, hid_channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hid_channels, out_channels, 1),
        )

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Dense projections, N x D x S^2, and their mean, N x D."""
        dense = self.mlp(self.pool(maps)).flatten(2)
        return dense, dense.mean(2)


@MODELS.register_module()
class Dense(Term):
    """Each cell must pick the cell of the other view that looks most like it.

    Out of a queue of other images' cells, over all pairs of views (equations 2 and 3).
    The match is found in features of the backbone. The dense projections are those of
    the neck, where it is a ``DenseCLNeck``; with any other neck the term brings a head.

    Args:
        temperature: T; None is that of the base, 0.2 where that has none.
        hid_channels: Hidden width of the term's own head; None is that of the map.
        num_grid: Side S of its grid; None is that of the map.
        queue_len: Keys K; None is the length of the base's queue, 4096 without one.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``temperature`` is not positive, or a size no whole number; options
            of the own head are given where the neck has one; the backbone returns no
            map.
    """

    name = "dense"
    always = True
    needs_features = True

    def __init__(
        self,
        temperature: float | None = None,
        hid_channels: int | None = None,
        num_grid: int | None = None,
        queue_len: int | None = None,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        self.temperature = temperature
        for key, size in {"hid_channels": hid_channels, "num_grid": num_grid}.items():
            if size is not None and not is_count(size):
                raise UserValueError(
                    f"{key}={size!r} of the term Dense must be a whole number above 0, "
                    "or left out for that of the map."
                )
        self.hid_channels, self.num_grid = hid_channels, num_grid
        self.queue_len = queue_len
        self.head: DenseHead | None = None

    def attach(self, method: Method) -> None:
        """Make the queue, and a head where the neck has none."""
        self.check_views(method)
        if self.temperature is None:
            self.temperature = getattr(method.compare, "temperature", _TEMPERATURE)
        check_positive("temperature", self.temperature)
        neck, base = method.neck, method.negatives
        dim, channels = method.dim, method.channels
        if hasattr(neck, "mlp2"):
            if self.hid_channels or self.num_grid:
                raise UserValueError(
                    f"{type(neck).__name__} has the dense head; set its hid_channels "
                    "and num_grid in neck, not in the term Dense."
                )
        elif channels is None:
            raise UserValueError(
                "The term Dense has to know the channels of the feature map; take a "
                "DenseCLNeck, which says them as in_channels."
            )
        else:
            hidden = self.hid_channels or channels
            self.head = DenseHead(channels, hidden, dim, self.num_grid)
        length = QUEUE_LEN if base is None else len(base)
        self.queue = KeyQueue(length if self.queue_len is None else self.queue_len, dim)

    def parts(self) -> dict[str, nn.Module]:
        """The term's own head."""
        return {} if self.head is None else {"dense_head": self.head}

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """Unit rows per cell and image.

        ``dense`` (N x S^2 x D) and ``dense_mean`` (N x D) are projections, ``cells``
        (N x S^2 x C) the backbone's features, without gradient, for the match.
        """
        last = maps[-1]  # N x C x h x w
        if last.ndim != 4:
            raise UserValueError(
                f"The term Dense compares the cells of feature maps, but "
                f"{type(encoder.backbone).__name__} returns {tuple(last.shape)}; "
                "let it return its maps."
            )
        if self.head is None:
            _, dense, mean = outputs  # N x D x S^2, N x D
        else:
            head: Any = getattr(encoder, "dense_head", self.head)
            dense, mean = head(last)
        cells = self.grid(encoder, last).detach().flatten(2)  # N x C x S^2
        return {
            "dense": unit(dense, 1).transpose(1, 2),
            "dense_mean": unit(mean),
            "cells": unit(cells, 1).transpose(1, 2),
        }

    def grid(self, encoder: Any, maps: Tensor) -> Tensor:
        """A map at the resolution of the dense projections."""
        if self.head is not None:
            return self.head.pool(maps)
        return encoder.neck.pool(maps) if encoder.neck.with_pool else maps

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over images and cells of InfoNCE."""
        losses = []
        for a, b in method.pairs:
            query, key = step.online[a], step.target[b]
            match = match_cells(query["cells"], key["cells"])  # N x S^2
            positives = take_cells(key["dense"].detach(), match)  # N x S^2 x D
            r, t = query["dense"].flatten(0, 1), positives.flatten(0, 1)  # N*S^2 x D
            assert self.temperature is not None
            losses.append(info_nce(r, t, self.queue.keys, self.temperature).mean())
        return method.over_pairs(losses)

    def collect(self, method: Method, step: Step) -> Features:
        """The targets' mean dense projections."""
        return {"keys": method.targets(step, "dense_mean")}

    def remember(self, found: Features) -> None:
        """Let them be negatives from the next step on."""
        self.queue.enqueue(found["keys"])

    @torch.no_grad()
    def inspect(self, method: Method, inputs: list[Tensor]) -> dict[str, Any]:
        """Matched cells of the views of the first pair.

        Returns:
            ``grid`` (h, w), ``match`` (target cell of every query cell, N x h*w) and
            ``similarity`` (cosine of the backbone features of each pair, N x h*w).
        """
        a, b = method.pairs[0]
        query = method.encode(method, inputs[a])
        key = method.encode(method.target_encoder, inputs[b])
        match = match_cells(query["cells"], key["cells"])
        similarity = (query["cells"] * take_cells(key["cells"], match)).sum(2)
        grid = self.grid(method, method.backbone(inputs[a])[-1]).shape[-2:]
        return {"grid": tuple(grid), "match": match, "similarity": similarity}
