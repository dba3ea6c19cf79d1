"""A method whose terms are all of its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmssl_ext.registry import MODELS

from .base import Comparison

if TYPE_CHECKING:
    from ..algorithms.method import Method, Step


@MODELS.register_module()
class NoComparison(Comparison):
    """Embeddings of whole images are not compared: no loss of its own."""

    names = ()

    def forward(self, method: Method, step: Step) -> dict[str, Tensor]:
        """No losses."""
        return {}
