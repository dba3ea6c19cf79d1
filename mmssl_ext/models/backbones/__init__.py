"""Backbones that mmpretrain has not got in this form."""

from .contrastive_vit import ContrastiveViT
from .simple_pyramid import SimplePyramid

__all__ = ["ContrastiveViT", "SimplePyramid"]
