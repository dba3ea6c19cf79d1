"""The interface of comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmssl_ext.errors import UserValueError

from ..part import Part

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


class Comparison(Part):
    """Base of the comparisons.

    A comparison of pairs defines :meth:`pair`; one that looks at all views at once,
    such as prototypes, defines ``forward``.

    Attributes:
        names: Of the losses that ``forward`` returns.
        negatives: K x D keys that every query is told apart from, None without a queue.
        targets_learn: :meth:`pair` has a gradient in its targets.
    """

    names: tuple[str, ...] = ("instance",)
    negatives: Tensor | None = None
    targets_learn = True

    def attach(self, method: Method) -> None:
        """Compare what it gets from the network with what it gets from the target.

        Raises:
            ValueError: The embeddings differ in size.
        """
        wanted = method.target.dim or method.dim
        if wanted != method.dim:
            raise UserValueError(
                f"The neck returns {method.dim} features, but the embeddings of the "
                f"{type(method.target).__name__} have {wanted}; set neck.out_channels "
                f"to {wanted}."
            )

    def predict(self, projection: Tensor) -> Tensor:
        """What an online projection, N x D, is before it is compared, N x D."""
        return projection

    def pair(self, q: Tensor, k: Tensor, negatives: Tensor | None = None) -> Tensor:
        """Mean loss of queries and their targets, a scalar.

        Args:
            q: Unit rows, M x D; M is a multiple of N, and row m belongs to target m
                modulo N.
            k: Targets, N x D unit rows.
            negatives: One more negative for every query, M x D, where the comparison
                knows negatives.
        """
        raise NotImplementedError

    def shares(self, k: Tensor, keys: Tensor) -> Tensor | None:
        """How far other images take part in what each target stands for.

        For pictures; the rest of each row, up to 1, is the target's own part.

        Args:
            k: Targets, N x D unit rows.
            keys: Of other images, M x D unit rows.

        Returns:
            N x M, None where every image stands for itself alone.
        """
        return None

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """Losses of a step by name, scalars, not weighted."""
        losses = [
            self.pair(step.online[a]["embedding"], step.target[b]["embedding"])
            for a, b in method.pairs
        ]
        return {"instance": method.over_pairs(losses)}
