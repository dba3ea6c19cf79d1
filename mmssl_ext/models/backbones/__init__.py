"""Backbones that mmpretrain has not got in this form."""

from .contrastive_vit import ContrastiveViT
from .simple_pyramid import SimplePyramid
from .timm_embedding import TimmEmbedding

__all__ = ["ContrastiveViT", "SimplePyramid", "TimmEmbedding"]
