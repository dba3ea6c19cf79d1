"""Regression of the target's neighbours in a bank (MSF, arXiv 2105.07269; CMSF)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import members_first, queue_topk
from ..memory import KeyQueue
from ..part import Features, build_part, is_count
from .constraint import Constraint
from .regression import Regression

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class MeanShift(Regression):
    """Each prediction must point where the k nearest neighbours of its target point.

    ``mean_j (2 - 2 v.M_j) = 2 - 2 v.mu`` with their plain mean mu, so only the bank
    rows that are chosen are read. The targets of a step, those of all ranks, are in the
    bank before its loss: each is its own first neighbour, and k = 1 is BYOL's loss.

    With a constraint, mu is ``(1 - share) mu + share mu_c``, where mu_c is the mean of
    k neighbours that are taken from the constraint's set as far as that reaches.

    Args:
        predictor: Config of h, e.g. mmpretrain's ``NonLinearNeck``.
        length: Rows m of the bank; at most half of the dataset's images.
        k: Neighbours of a target, itself among them.
        dtype: Of the bank, as of a :class:`~mmssl_ext.models.memory.FeatureBank`; it
            takes m D elements on every device and in every checkpoint.
        constraint: Config of the further neighbours (CMSF), e.g. ``SameCluster``.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``k`` is not a whole number from 1 to ``length``.
    """

    remembers_first = True
    targets_learn = False
    bank: KeyQueue

    def __init__(
        self,
        predictor: dict | None,
        length: int = 128_000,
        k: int = 5,
        dtype: str = "float32",
        constraint: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(predictor, init_cfg=init_cfg)
        if not is_count(k) or (is_count(length) and k > length):
            raise UserValueError(
                f"k={k!r} neighbours are looked for among the {length!r} rows of the "
                "bank; set k to a whole number from 1 up to length (5 is usual)."
            )
        self.length, self.k, self.dtype = length, k, dtype
        self.constraint: Constraint | None = None
        if constraint is not None:
            self.constraint = build_part("constraint", constraint, Constraint)

    def attach(self, method: Method) -> None:
        """Make the bank, and what the constraint keeps."""
        super().attach(method)
        dim, constrained = method.target.dim or method.dim, self.constraint is not None
        self.bank = KeyQueue(self.length, dim, dtype=self.dtype, index=constrained)
        if self.constraint is not None:
            self.constraint.join(self.bank, self.dtype)

    def start(self, training: Any) -> None:
        """Let the constraint know the images."""
        if self.constraint is not None:
            if training.iteration == 0:  # load_from may have brought another set's
                self.bank.forget_images()
            self.constraint.start(training)

    def end_epoch(self, training: Any) -> None:
        """Let the constraint follow the epoch."""
        if self.constraint is not None:
            self.constraint.end_epoch(training)

    @property
    def pseudo_labels(self) -> Any:
        """Those that the constraint keeps, None where it keeps none."""
        return getattr(self.constraint, "pseudo_labels", None)

    def shares(self, k: Tensor, keys: Tensor) -> Tensor | None:
        """See :class:`Comparison`; a target is its own first neighbour."""
        if self.constraint is not None:
            return None  # it wants to know which images they are
        count = min(self.k - 1, len(keys))
        found = k.new_zeros(len(k), len(keys))
        if count:
            near = queue_topk(k, keys, count)[1]  # N x count
            found.scatter_(1, near, 1 / (1 + count))
        return found

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """See :class:`Comparison`; negatives and the constraint are not used."""
        return super().pair(q, self.rows(self.nearest(k), k).mean(1))

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """Mean loss of the pairs."""
        if self.constraint is None:
            return super().forward(method, step)
        means = {
            b: self.constrained(step.target[b]["embedding"], step.index, place)
            for place, b in enumerate(method.target_views)
        }
        losses = [
            super(MeanShift, self).pair(step.online[a]["embedding"], means[b])
            for a, b in method.pairs
        ]
        return {"instance": method.over_pairs(losses)}

    def nearest(self, u: Tensor) -> Tensor:
        """Rows of the k nearest neighbours of N x D targets, N x k, nearest first."""
        return queue_topk(u, self.bank.keys, self.k)[1]

    def rows(self, places: Tensor, like: Tensor) -> Tensor:
        """Rows of the bank, N x k x D, in the precision of ``like``."""
        return self.bank.keys[places].to(like.dtype)

    @torch.no_grad()
    def constrained(self, u: Tensor, index: Tensor | None, place: int = 0) -> Tensor:
        """What N x D targets stand for under the constraint, N x D.

        Args:
            u: Targets of a view, in the bank already.
            index: Positions of their images in the dataset, N.
            place: Of the view among the target views.
        """
        assert self.constraint is not None
        near = self.nearest(u)  # N x k
        chosen = self.constraint.choose(u, index, self.k, place)  # N x s
        within = members_first(u, self.bank.keys, chosen, near)  # N x k
        means = self.rows(near, u).mean(1), self.rows(within, u).mean(1)
        return torch.lerp(*means, self.constraint.share)

    def collect(self, method: Method, step: Step) -> Features:
        """The targets of the step, one view after the other, and their images."""
        found = {"keys": method.targets(step, "embedding")}
        if self.constraint is not None:
            index = self.constraint.positions(step.index)
            found["index"] = index.repeat(len(method.target_views))
        return found

    def remember(self, found: Features) -> None:
        """Put them into the bank."""
        self.bank.enqueue(**found)
        if self.constraint is not None:
            self.constraint.follow(**found)
