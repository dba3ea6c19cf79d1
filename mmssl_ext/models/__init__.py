"""Models: algorithms, and the heads, losses, layers and memory they share."""

from mmssl_ext import preprocessing

from . import algorithms, heads, layers

__all__ = ["algorithms", "heads", "layers", "preprocessing"]
