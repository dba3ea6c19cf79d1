"""Projection heads that mmpretrain has not got."""

from .conv_projector import ConvProjector
from .dropout import DropoutNeck
from .gelu import GELUNeck
from .multi_level import MultiLevelNeck

__all__ = ["ConvProjector", "DropoutNeck", "GELUNeck", "MultiLevelNeck"]
