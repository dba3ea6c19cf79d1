"""Heads: features in, named losses out; temperatures and weights are theirs."""

from .margin_head import MarginHead
from .queue_heads import ConsistencyHead, InstanceHead, MultiLevelHead

__all__ = ["ConsistencyHead", "InstanceHead", "MarginHead", "MultiLevelHead"]
