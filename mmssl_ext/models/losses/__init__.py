"""Losses as pure functions of tensors."""

from .consistency import queue_consistency
from .dense import match_cells, take_cells
from .info_nce import info_nce
from .margin import margin_info_nce
from .queue_attention import queue_logsumexp

__all__ = [
    "info_nce",
    "margin_info_nce",
    "match_cells",
    "queue_consistency",
    "queue_logsumexp",
    "take_cells",
]
