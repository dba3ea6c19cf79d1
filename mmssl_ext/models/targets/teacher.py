"""A trained network as the target: distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import check_parts, pooled
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..part import Features, out_features
from .base import Target, View

if TYPE_CHECKING:
    from ..algorithms.method import Method


_NECK = ", prefix='neck.'"  # where a checkpoint of this package has it


@MODELS.register_module()
class FrozenTeacher(Target, BaseModule):
    """A network from a checkpoint, in eval mode, never trained.

    Args:
        backbone: Its config, with ``init_cfg=dict(type="PretrainedBackbone",
            checkpoint=...)``, which finds the weights and verifies them.
        neck: Config of its projection head, with an ``init_cfg`` alike; None takes the
            globally pooled output of the backbone.
        dim: Size of its embedding where that does not follow from the neck or
            ``backbone.feat_dim``.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A part has no weights to start from, the size of the embedding is
            not known, or the method needs features of the target that a teacher has not
            got.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        dim: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        BaseModule.__init__(self, init_cfg)
        for name, part in {"backbone": backbone, "neck": neck}.items():
            if part and not (_loads(part.get("init_cfg")) or _loads(init_cfg)):
                raise UserValueError(
                    f"The {name} of FrozenTeacher would teach random features; set "
                    f"target.{name}.init_cfg=dict(type='PretrainedBackbone', "
                    f"checkpoint=...{_NECK if name == 'neck' else ''})."
                )
        self.backbone = MODELS.build(backbone)
        self.neck = None if neck is None else MODELS.build(neck)
        derived: Any = (
            getattr(self.backbone, "feat_dim", None)
            if self.neck is None
            else out_features(self.neck)
        )
        if dim and derived and dim != derived:
            raise UserValueError(
                f"The FrozenTeacher's embedding has {derived} features, not "
                f"target.dim={dim}; leave dim out."
            )
        if not (dim or derived):
            raise UserValueError(
                "How many features the embedding of the FrozenTeacher has is not "
                "known; set target.dim."
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
                raise UserValueError(
                    f"The term {name} compares features that a FrozenTeacher has not "
                    "got; take another target or leave the term out."
                )

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def check_inputs(self, method: Method, views: list[View]) -> None:
        """Send the views through the teacher.

        Raises:
            ValueError: Its parts do not fit them or each other, or its embedding is of
                another size than said.
        """
        for view in views:
            images = method.prepare(view)
            check_parts(self, images)
            size = self._project(images).shape[1]
            if size != self.dim:
                raise UserValueError(
                    f"The FrozenTeacher's embedding has {size} features, not "
                    f"{self.dim}; set target.dim to {size}."
                )

    def _project(self, images: Any) -> Tensor:
        maps = self.backbone(images)
        return pooled(maps) if self.neck is None else self.neck(maps)[0]

    @torch.no_grad()
    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """Features of the views, one by one."""
        found: dict[int, Features] = {}
        for v, view in views.items():
            projection = self._project(method.prepare(view))
            found[v] = {"projection": projection, "embedding": unit(projection)}
        return found


def _loads(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` reads weights and verifies them."""
    kinds = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    types = [kind.get("type") for kind in kinds if kind]
    return "PretrainedBackbone" in {getattr(t, "__name__", t) for t in types}
