"""Models: algorithms, and the necks, heads, losses, layers and memory they share."""

from mmssl_ext.imports import quietly

with quietly():  # it tries to import mmdet, which complains of ops that are not needed
    import mmpretrain.engine  # configs name its DenseCLHook
    import mmpretrain.models  # noqa: F401

from mmssl_ext import preprocessing

from . import algorithms, heads, layers, memory, necks

__all__ = ["algorithms", "heads", "layers", "memory", "necks", "preprocessing"]
