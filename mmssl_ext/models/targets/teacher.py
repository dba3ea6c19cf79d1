"""A trained network as the target: distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModule

from mmssl_ext.fit import pooled
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..part import Features, out_features
from .base import Target, View

if TYPE_CHECKING:
    from ..algorithms.method import Method


@MODELS.register_module()
class FrozenTeacher(Target, BaseModule):
    """A network from a checkpoint, in eval mode, never trained.

    Args:
        backbone: Its config, with ``init_cfg=dict(type="PretrainedBackbone",
            checkpoint=...)``, which finds the weights and verifies them.
        neck: Config of its projection head; None takes the globally pooled output of
            the backbone.
        dim: Size of its embedding where that does not follow from the neck or
            ``backbone.feat_dim``.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: The backbone has no weights to start from, or the method needs
            features of the target that a teacher has not got.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        dim: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        BaseModule.__init__(self, init_cfg)
        if not backbone.get("init_cfg") and not init_cfg:
            raise ValueError(
                "FrozenTeacher would teach random features; set target.backbone."
                'init_cfg=dict(type="PretrainedBackbone", checkpoint=...).'
            )
        self.backbone = MODELS.build(backbone)
        self.neck = None if neck is None else MODELS.build(neck)
        derived: Any = (
            getattr(self.backbone, "feat_dim", None)
            if self.neck is None
            else out_features(self.neck)
        )
        self.dim = dim or derived
        self.requires_grad_(False)

    def attach(self, method: Method) -> None:
        """Refuse terms whose features a teacher has not got.

        Raises:
            ValueError: There is such a term.
        """
        for name, term in method.terms.items():
            if term.needs_features:
                raise ValueError(
                    f"The term {name} compares features that a FrozenTeacher has not "
                    "got; take another target or leave the term out."
                )

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """Features of the views, one by one."""
        found: dict[int, Features] = {}
        for v, view in views.items():
            maps = self.backbone(method.prepare(view))
            projection = pooled(maps) if self.neck is None else self.neck(maps)[0]
            found[v] = {"projection": projection, "embedding": unit(projection)}
        return found
