"""Distillation from a frozen teacher, beside any base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.fit import map_widths, pooled
from mmssl_ext.registry import MODELS

from ..comparisons.teacher import TeacherRegression
from ..layers import unit
from ..losses import map_distillation, similarity_distillation, standardised
from ..part import Features, build_part, check_positive
from ..targets import FrozenTeacher
from ..targets.base import View
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class OfTeacher(Term):
    """A term that compares each query view with what a teacher makes of that view.

    Args:
        teacher: Config of a ``FrozenTeacher``. None: that of the base, e.g. SimReg's.
        name: Of the loss, where there are several.
        weight: See :class:`Term`.
        init_cfg: As for every mmengine module.
    """

    reads: tuple[str, ...] = ("embedding",)  # of what the teacher returns

    def __init__(
        self,
        teacher: dict | None = None,
        name: str | None = None,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        if name is not None:
            self.name = name
        self.teacher: FrozenTeacher | None = None
        if teacher is not None:
            config = {"type": "FrozenTeacher", **teacher}
            self.teacher = build_part(f"{self.name}.teacher", config, FrozenTeacher)

    def attach(self, method: Method) -> None:
        """Find the teacher.

        Raises:
            ValueError: There is none, a view is not one image, or the backbone does not
                say how many channels it returns.
        """
        self.check_views(method)
        kind = type(self).__name__
        if self.teacher is None and not isinstance(method.target, FrozenTeacher):
            raise UserValueError(
                f"The term {kind} needs a teacher: set its teacher=dict(backbone="
                "dict(..., init_cfg=dict(type='PretrainedBackbone', checkpoint=...)))."
            )
        if self.teacher is None and any(a != b for a, b in method.pairs):
            raise UserValueError(
                f"The term {kind} compares each view with what the teacher makes of "
                f"the same view, not pairs={method.pairs}; give it a teacher of its "
                "own."
            )
        if not method.channels:
            raise UserValueError(
                f"{kind} needs the number of channels that the backbone returns; set "
                "model.feat_dim and let the neck pool alone, or take a backbone that "
                "says it (feat_dim)."
            )

    def teacher_of(self, method: Method) -> FrozenTeacher:
        """The teacher: its own, or that of the base."""
        found = self.teacher or method.target
        assert isinstance(found, FrozenTeacher)
        return found

    def look(self, method: Method, number: int, view: View) -> Features:
        """What its own teacher makes of a query view."""
        if self.teacher is None or number not in method.query_views:
            return {}
        seen = self.teacher.see(method, view)
        return {f"{self.name}_{key}": seen[key] for key in self.reads}

    def wanted(self, step: Step, view: int, key: str = "embedding") -> Tensor:
        """What the teacher makes of a view, constant."""
        own = step.online[view].get(f"{self.name}_{key}")
        return (step.target[view][key] if own is None else own).detach()

    @torch.no_grad()
    def check_inputs(self, method: Method, views: list[View]) -> None:
        """See :meth:`FrozenTeacher.check_inputs`."""
        if self.teacher is not None:
            self.teacher.check_inputs(method, views)


@MODELS.register_module()
class Distillation(OfTeacher):
    """The backbone's pooled features must become those of a teacher.

    Args:
        compare: Config of how they are compared, through a head of its own:
            ``TeacherRegression`` (SimReg) or ``TeacherSoftmax`` (over a queue).
        **kwargs: As for :class:`OfTeacher`.

    Raises:
        ValueError: ``compare`` is another comparison.
    """

    name = "distillation"

    def __init__(self, compare: dict | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        config = {"type": "TeacherRegression", **(compare or {})}
        self.compare = build_part(f"{self.name}.compare", config, TeacherRegression)

    @property
    def remembers_first(self) -> bool:  # type: ignore[override]
        """As its comparison."""
        return self.compare.remembers_first

    def attach(self, method: Method) -> None:
        """Make the head."""
        super().attach(method)
        teacher = self.teacher_of(method)
        assert method.channels is not None
        assert teacher.dim is not None
        self.compare.join(method.channels, teacher.dim)

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """The pooled features, N x C."""
        return {"pooled": pooled(maps)}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the query views, a scalar."""
        losses = [
            self.compare.pair(
                unit(self.compare.predict(step.online[v]["pooled"])),
                self.wanted(step, v),
            )
            for v in method.query_views
        ]
        return torch.stack(losses).mean()

    def collect(self, method: Method, step: Step) -> Features:
        """The teacher's features, for a queue."""
        if not self.remembers_first:
            return {}
        return {"keys": torch.cat([self.wanted(step, v) for v in method.query_views])}

    def remember(self, found: Features) -> None:
        """Put them into the queue."""
        self.compare.remember(found)


class OfTeacherMap(OfTeacher):
    """A term that compares maps, each through a linear layer, with a teacher's.

    Args:
        levels: Pairs of maps as the two backbones return them (``out_indices``), the
            student's first; the last of both by default.
        **kwargs: As for :class:`OfTeacher`.

    Raises:
        ValueError: ``levels`` holds no pairs.
    """

    def __init__(
        self, levels: Sequence[Sequence[int]] = ((-1, -1),), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not levels or any(len(pair) != 2 for pair in levels):
            raise UserValueError(
                f"levels={levels!r} must be pairs of a student's map and a teacher's, "
                "such as ((0, 0), (1, 1))."
            )
        self.levels = [(int(own), int(other)) for own, other in levels]

    def attach(self, method: Method) -> None:
        """Make the linear layers."""
        super().attach(method)
        teacher = self.teacher_of(method)
        teacher.keeps_maps = True
        own, others = map_widths(method.backbone), map_widths(teacher.backbone)
        self.levels = [
            (self._map("student", a, own), self._map("teacher", b, others))
            for a, b in self.levels
        ]
        self.reads = tuple(f"map{b}" for _, b in self.levels)
        self.heads = nn.ModuleList(
            nn.Conv2d(own[a], others[b], 1) for a, b in self.levels
        )

    def _map(self, whose: str, number: int, widths: list[int]) -> int:
        """The number of a map, counted from the first."""
        if not -len(widths) <= number < len(widths):
            raise UserValueError(
                f"{type(self).__name__}.levels names map {number} of the {whose}, "
                f"whose backbone returns {len(widths)}; set backbone.out_indices."
            )
        return number % len(widths)

    def features(self, encoder: Any, maps: Any, outputs: Any) -> Features:
        """The maps that are compared, N x C x h x w each."""
        return {f"map{a}": maps[a] for a, _ in self.levels}

    def forward(self, method: Method, step: Step) -> Tensor:
        """Mean over the query views, the levels and their cells, a scalar."""
        losses = [
            self.distance(head(step.online[v][f"map{a}"]), self.wanted(step, v, key))
            for v in method.query_views
            for head, (a, _), key in zip(
                self.heads, self.levels, self.reads, strict=True
            )
        ]
        return torch.stack(losses).mean()

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        """Of two maps of one width, a scalar."""
        raise NotImplementedError


@MODELS.register_module()
class LocalSimilarity(OfTeacherMap):
    """The cells of a view must resemble each other as the teacher finds.

    The local loss of lightly-train's distillation
    (:func:`~mmssl_ext.models.losses.similarity_distillation`). Differs from it: the
    linear layer begins as torch's do, there with a deviation of 0.02.

    Args:
        temperature: T.
        **kwargs: As for :class:`OfTeacherMap`.

    Raises:
        ValueError: ``temperature`` is not positive.
    """

    name = "local"

    def __init__(self, temperature: float = 0.07, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = check_positive("temperature", temperature)

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        """KL of the similarities within each image."""
        return similarity_distillation(s, t, self.temperature)


@MODELS.register_module()
class LocalRegression(OfTeacherMap):
    """Each cell must point where the teacher's cell at its place points.

    :func:`~mmssl_ext.models.losses.map_distillation`; with ``normalise=False``
    lightly-train's distillation v2.

    Args:
        normalise: See there.
        standardise: Give the channels of the teacher's map mean 0 and variance 1 in
            the batch first
            (:func:`~mmssl_ext.models.losses.standardised`). Else, as features behind
            a ReLU are positive, a few large channels say where a cell points, and most
            cells point alike.
        **kwargs: As for :class:`OfTeacherMap`.
    """

    name = "cells"

    def __init__(
        self, normalise: bool = True, standardise: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.normalise = normalise
        self.standardise = standardise

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        """Distance of the cells."""
        t = standardised(t) if self.standardise else t
        return map_distillation(s, t, self.normalise)
