"""Projection heads that mmpretrain has not got."""

from .multi_level import MultiLevelNeck

__all__ = ["MultiLevelNeck"]
