"""Rows of the class of a target's image (CMSF with labels, arXiv 2112.04607)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmssl_ext.errors import UserValueError
from mmssl_ext.registry import MODELS

from ..losses import queue_topk
from ..memory import LabelTable
from .constraint import Constraint


class ByLabel(Constraint):
    """The rows of the bank whose images have the label of the target's image."""

    def __init__(self, share: float = 0.5, init_cfg: dict | None = None) -> None:
        super().__init__(share, init_cfg)
        self.table = LabelTable()

    def choose(self, u: Tensor, index: Tensor | None, k: int, place: int) -> Tensor:
        """See :class:`Constraint`."""
        assert self.rows.index is not None
        labels = self.table.of(self.positions(index)), self.table.of(self.rows.index)
        similarity, rows = queue_topk(u, self.rows.keys, k, labels, own=True)
        return rows.masked_fill(similarity.isneginf(), -1)

    def __len__(self) -> int:
        return len(self.table)


@MODELS.register_module()
class SameLabel(ByLabel):
    """The rows of the class of the target's image (CMSF with labels).

    The dataset tells the classes, -1 where one is not known; such an image has no set.

    Args:
        share: See :class:`Constraint`; 1 is the supervised CMSF.
        init_cfg: As for every mmengine module.
    """

    def __init__(self, share: float = 1.0, init_cfg: dict | None = None) -> None:
        super().__init__(share, init_cfg)

    def prepare(self, labels: Tensor, fingerprint: int = 0) -> None:
        """Take the classes of all images, n."""
        self.table.write(labels, fingerprint)

    def start(self, training: Any) -> None:
        """Read the classes.

        Raises:
            ValueError: The dataset has none, or is not that of the checkpoint.
        """
        images = training.dataset
        if images.labels is None:
            raise UserValueError(
                "SameLabel needs a dataset with labels: set train_dataloader.dataset."
                "labels='subfolders' for class folders, or use SameCluster."
            )
        fingerprint = images.fingerprint()
        if training.iteration > 0 and len(self.table):
            self.table.check(fingerprint)
        self.prepare(torch.as_tensor(images.labels), fingerprint)
