"""Losses as pure functions of tensors."""

from .consistency import queue_consistency
from .info_nce import info_nce
from .queue_attention import queue_logsumexp

__all__ = ["info_nce", "queue_consistency", "queue_logsumexp"]
