"""A trained network as the target: distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import check_parts, map_channels, pooled
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..memory.feature_cache import FeatureCache
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
            the backbone.
        mean: Of its images by channel, in units of 0 to 255, where it was trained on
            images prepared in another way than the student's; by default what the file
            of its weights tells, else as the student's.
        std: Likewise.
        cache: Number of images of the dataset whose features are kept once computed,
            for target views that are the same every time; 0 computes them anew.
        init_cfg: As for every mmengine module.

    Attributes:
        channels: Of the backbone's last map, None where it does not say.
        keeps_maps: :meth:`see` returns the backbone's maps besides.

    Raises:
        ValueError: A part has no weights to start from, the size of the embedding is
            not known, or the method needs features of the target that a teacher has not
            got.
    """

    takes_own_view = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        dim: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        cache: int = 0,
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
        self.channels: int | None = map_channels(self.backbone)
        derived: Any = self.channels if self.neck is None else out_features(self.neck)
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
        self.dim = size = int(dim or derived)
        self.keeps_maps = False
        if (mean is None) != (std is None):
            raise UserValueError("target.mean and target.std belong together.")
        # A deviation of 0: not known.
        self.register_buffer("mean", torch.tensor(mean or [0.0] * 3))
        self.register_buffer("std", torch.tensor(std or [0.0] * 3))
        self.kept = FeatureCache(cache, size) if cache else None
        self.requires_grad_(False)

    def init_weights(self) -> None:
        """Read the weights, and how their images were prepared."""
        super().init_weights()
        record = getattr(getattr(self.backbone, "handover", None), "record", {})
        told = [record.get("input", {}).get(name) for name in ("mean", "std")]
        if not self.std.any() and all(told):
            for own, values in zip((self.mean, self.std), told, strict=True):
                if len(values) == len(own):  # bands are prepared as the student's
                    own.copy_(torch.tensor(values))

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
            size = self.see(method, images)["projection"].shape[1]
            if size != self.dim:
                raise UserValueError(
                    f"The FrozenTeacher's embedding has {size} features, not "
                    f"{self.dim}; set target.dim to {size}."
                )

    @torch.no_grad()
    def see(self, method: Method, view: View) -> Features:
        """``projection`` and ``embedding`` of a view, N x D; ``map0``, ... if asked."""
        images = method.prepare(view)
        if isinstance(images, Tensor):
            images = self._as_trained(images, method.data_preprocessor)
        maps = self.backbone(images)
        projection = pooled(maps) if self.neck is None else self.neck(maps[-1:])[0]
        found = {"projection": projection, "embedding": unit(projection)}
        return found | (
            {f"map{i}": x for i, x in enumerate(maps)} if self.keeps_maps else {}
        )

    def _as_trained(self, images: Tensor, student: Any) -> Tensor:
        """Images as its weights know them, of those that the student sees."""
        mean, std = (getattr(student, n, None) for n in ("mean", "std"))
        if mean is None or std is None or images.shape[1] != len(self.mean):
            return images
        mean, std = mean.flatten().expand(3), std.flatten().expand(3)
        known = self.std > 0
        own_mean = torch.where(known, self.mean, mean)
        own_std = torch.where(known, self.std, std)
        shift = ((mean - own_mean) / own_std)[:, None, None]
        return images * (std / own_std)[:, None, None] + shift

    @torch.no_grad()
    def features(
        self, method: Method, views: dict[int, View], online: dict[int, Features]
    ) -> dict[int, Features]:
        """Features of the views, one by one, or those that are kept."""
        if self.kept is None:
            return {v: self.see(method, view) for v, view in views.items()}
        if len(views) > 1 or self.keeps_maps:
            raise UserValueError(
                "FrozenTeacher keeps the features of one target view, without maps; "
                "leave target.cache out."
            )
        ((v, view),) = views.items()
        projection = self.kept(
            view, self.index, lambda x: self.see(method, x)["projection"]
        )
        return {v: {"projection": projection, "embedding": unit(projection)}}


def _loads(init_cfg: Any) -> bool:
    """Whether an ``init_cfg`` reads weights and verifies them."""
    kinds = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    types = [kind.get("type") for kind in kinds if kind]
    names = {str(getattr(t, "__name__", t)).rpartition(".")[2] for t in types}
    return "PretrainedBackbone" in names
