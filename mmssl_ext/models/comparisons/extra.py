"""InfoNCE with one more negative of each query's own, which is a view of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from .queue import QueueSoftmax

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class ExtraNegativeSoftmax(QueueSoftmax):
    """Each query must pick its target out of the queue and of one view more.

    The pipeline makes the negative, e.g. by ``SwapSubject``. The target network encodes
    it together with the targets, and it is never remembered. Queries of terms are
    compared with the queue alone.

    Args:
        temperature: T.
        length: Number of keys K; well below the size of the dataset.
        negative_view: Number of the view that is the negative.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: A value is out of its range, or the base encodes no such view.
    """

    def __init__(
        self,
        temperature: float = 0.2,
        length: int = 65536,
        negative_view: int = 2,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(temperature, length, init_cfg)
        if type(negative_view) is not int or negative_view < 0:
            raise UserValueError(
                f"negative_view={negative_view!r} must be the number of a view, 2 for "
                "the third."
            )
        self.negative_view = negative_view

    def attach(self, method: Method) -> None:
        """Make the queue, and let the target encode the negatives.

        Raises:
            ValueError: There is no target network, or the view is one of a pair.
        """
        super().attach(method)
        view = self.negative_view
        if not method.target.encodes:
            raise UserValueError(
                "ExtraNegativeSoftmax needs a target network, which encodes the "
                f"negatives; {type(method.target).__name__} has none."
            )
        if view in {*method.query_views, *method.target_views}:
            raise UserValueError(
                f"View {view} cannot be the negative, since pairs compares it; set "
                "negative_view to another one."
            )
        method.extra_views = (view,)
        method.num_views = max(method.num_views, view + 1)

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """See :class:`Comparison`."""
        negatives = step.target[self.negative_view]["embedding"].detach()  # N x D
        losses = [
            self.pair(
                step.online[a]["embedding"], step.target[b]["embedding"], negatives
            )
            for a, b in method.pairs
        ]
        return {"instance": method.over_pairs(losses)}
