"""Earlier states of the encoder as further targets (inspired by TKC, 2108.10668)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..layers import unit
from ..layers.knowledge_transformer import KnowledgeTransformer
from ..memory import Snapshots
from ..part import Features, is_count, is_number, one_of
from ..targets import FrozenTeacher
from ..targets.base import View
from .base import Term

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class TemporalTeachers(Term):
    """A query must find what the encoder made of its target view at earlier times.

    After each ``interval`` the encoder of the targets is copied over the oldest of h
    teachers. The loss of a pair of views is the weighted mean over the teachers, and 0
    before the first.

    Args:
        num_teachers: h.
        interval: Epochs between two copies; a twentieth of the training.
        by_epoch: False: ``interval`` counts iterations.
        ramp: How long the loss rises once there is a teacher, in intervals.
        form: ``"regression"``: ``2 - 2 cos``. ``"base"``: as the base compares a pair;
            over a queue the negatives are then of another encoder.
        hidden: Width of the knowledge transformers; None: there are none.
        learn_weights: Learn what each teacher counts; else all count alike.
        weight: alpha; see :class:`Term`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range.
    """

    name = "temporal"
    always = True  # copies are taken whatever the weight is
    snapshots: Snapshots

    def __init__(
        self,
        num_teachers: int = 2,
        interval: int = 10,
        by_epoch: bool = True,
        ramp: float = 0.1,
        form: str = "regression",
        hidden: int | None = 512,
        learn_weights: bool = False,
        weight: Any = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(weight, init_cfg)
        for name, value in {"num_teachers": num_teachers, "interval": interval}.items():
            if not is_count(value):
                raise UserValueError(
                    f"{name}={value!r} of TemporalTeachers must be a whole number from "
                    "1; usual are 2 teachers, and a twentieth of the training between."
                )
        if not (is_number(ramp) and ramp >= 0 and (hidden is None or is_count(hidden))):
            raise UserValueError(
                f"ramp={ramp!r} of TemporalTeachers must be 0 or more intervals and "
                f"hidden={hidden!r} a number of features, or None."
            )
        self.num_teachers, self.ramp, self.hidden = num_teachers, ramp, hidden
        self.form = one_of("form", form, ("regression", "base"))
        self.when: dict[str, Any] = {"interval": interval, "by_epoch": by_epoch}
        self.first_epoch = interval if by_epoch else 0
        self.scores = nn.Parameter(torch.zeros(num_teachers)) if learn_weights else None

    def attach(self, method: Method) -> None:
        """Make the teachers and their transformers.

        Raises:
            ValueError: The base has nothing of the kind, or nothing for these to learn.
        """
        self.check_views(method)
        if self.form == "base":
            self.check_pair(method)
        if isinstance(method.target, FrozenTeacher):
            raise UserValueError(
                "TemporalTeachers are earlier states of the encoder of the targets, "
                "but a FrozenTeacher is always the same; leave the term out."
            )
        learns = self.form == "regression" or method.compare.targets_learn
        if self.hidden is not None and not learns:
            raise UserValueError(
                f"{type(method.compare).__name__} has no gradient in its targets, from "
                "which a knowledge transformer would learn; let form of "
                "TemporalTeachers be 'regression', or hidden None."
            )
        encoder = {"backbone": method.backbone, "neck": method.neck}
        self.snapshots = Snapshots(encoder, self.num_teachers, **self.when)
        with torch.random.fork_rng([]):  # the base begins as it does without the term
            self.transformers: Any = nn.ModuleList(
                nn.Identity()
                if self.hidden is None
                else KnowledgeTransformer(method.dim, self.hidden)
                for _ in range(self.num_teachers)
            )

    def start(self, training: Any) -> None:
        """See :meth:`Snapshots.start`."""
        self.snapshots.start(training)

    def look_at_target(self, method: Method, number: int, view: View) -> Features:
        """What every teacher makes of a target view: ``temporal0``, ..., N x D."""
        if number == method.target_views[0] and self.snapshots.is_due(method.clock):
            self.take(method)
        found = self.snapshots.project(method.prepare(view))
        return {f"{self.name}{i}": unit(z) for i, z in enumerate(found)}

    @torch.no_grad()
    def take(self, method: Method) -> None:
        """Copy the encoder of the targets; what its place has learned goes."""
        place = self.snapshots.take(method.target_encoder, method.clock.num_steps)
        if self.hidden is not None:
            self.transformers[place].reset()
        if self.scores is not None:
            others = [i for i in range(len(self.snapshots)) if i != place]
            self.scores[place] = self.scores[others].mean() if others else 0

    def forward(self, method: Method, step: Step) -> Tensor:
        """Weighted mean of the teachers' losses, a scalar."""
        count, learned = len(self.snapshots), [*self.parameters()]
        zero = step.online[method.pairs[0][0]]["embedding"].new_zeros(())
        # Of teachers to come the gradient is 0, for DDP wants one of all.
        nothing = 0 * sum((p.sum() for p in learned if p.requires_grad), zero)
        if not count:
            return nothing
        losses = torch.stack([self.contrast(method, step, i) for i in range(count)])
        if self.scores is None:
            shares = losses.new_full((count,), 1 / count)
        else:
            shares = self.scores[:count].softmax(0)  # h
            found = {f"{self.name}_share{i}": shares[i] for i in range(count)}
            step.figures.update({n: share.detach() for n, share in found.items()})
        since = self.snapshots.intervals(method.clock) - 1
        risen = min(max(since / self.ramp, 0.0), 1.0) if self.ramp else 1.0
        return nothing + risen * (shares * losses).sum()

    def contrast(self, method: Method, step: Step, place: int) -> Tensor:
        """Loss of all pairs with one teacher, a scalar."""
        losses = []
        for a, b in method.pairs:
            q = step.online[a]["embedding"]  # N x D
            t = self.transformers[place](step.target[b][f"{self.name}{place}"])
            if self.form == "base":
                losses.append(method.compare.pair(q, t))
            else:
                losses.append((2 - 2 * (q * t).sum(1)).mean())
        return method.over_pairs(losses)
