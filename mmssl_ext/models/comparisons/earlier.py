"""What was near in the epoch before (CMSF-2Q, arXiv 2112.04607)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import queue_topk
from ..memory import KeyQueue
from ..part import is_count
from .constraint import KeepsTargets


@MODELS.register_module()
class EarlierNeighbours(KeepsTargets):
    """What was near in the epoch before (CMSF-2Q, self-supervised).

    A second bank has, for each row, the embedding of the same image when it was last
    seen before. The set of a target are the k' rows that are nearest there to its own
    earlier embedding.

    It counts from when half of the second bank is known; images that are seen for the
    first time have no set. Memory: m D elements, and n D for the last embeddings of all
    images, of ``dtype`` (half precision: 131 MB + 1.3 GB for ImageNet and D = 512).

    Args:
        k: Rows k' in the set.
        dtype: Of both; None is that of the bank.
        share: See :class:`Constraint`.
        init_cfg: As for every mmengine module.

    Raises:
        ValueError: ``k`` is not a whole number from 1 up to the bank's length.
    """

    earlier: KeyQueue

    def __init__(
        self,
        k: int = 5,
        dtype: str | None = None,
        share: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(dtype, share, init_cfg)
        self.k = k
        self.own = torch.empty(0)  # earlier embeddings of the step under way, M x D

    def join(self, rows: KeyQueue, dtype: str) -> None:
        """Make the second bank."""
        super().join(rows, dtype)
        length, dim = rows.keys.shape
        if not is_count(self.k) or self.k > length:
            raise UserValueError(
                f"constraint.k={self.k!r} rows are looked for among the {length} of "
                "the bank; set it to a whole number from 1 up to that."
            )
        kept = self.dtype or dtype
        self.earlier = KeyQueue(length, dim, dtype=kept, labels=True)  # 0: known

    def prepare(self, length: int, fingerprint: int = 0) -> None:
        """Begin with a dataset of so many images."""
        super().prepare(length, fingerprint)
        self.earlier.forget_images()

    def follow(self, keys: Tensor, index: Tensor) -> None:
        """Move the embeddings of before to the second bank."""
        self.own = self.last.read(index)  # M x D, 0 where an image was never seen
        self.earlier.enqueue(self.own, self.own.any(1).long() - 1)
        super().follow(keys, index)

    def choose(self, u: Tensor, index: Tensor | None, k: int, place: int) -> Tensor:
        """See :class:`Constraint`."""
        own = self.own[place * len(u) : (place + 1) * len(u)]  # N x D
        assert self.earlier.labels is not None
        unknown = self.earlier.labels < 0  # m
        left_out = own.new_zeros(len(own), dtype=torch.long), unknown.long() - 1
        similarity, rows = queue_topk(own, self.earlier.keys, self.k, left_out)
        early = 2 * unknown.sum() > len(unknown)
        none = similarity.isneginf() | ~own.any(1, keepdim=True) | early
        return rows.masked_fill(none, -1)
