"""Models: algorithms, and what they are made of: targets, comparisons, terms."""

from mmssl_ext.imports import quietly

with quietly():  # it tries to import mmdet, which complains of ops that are not needed
    import mmpretrain.engine  # configs name its LARS
    import mmpretrain.models  # noqa: F401

from mmssl_ext import preprocessing

from . import algorithms, backbones, comparisons, layers, memory, necks, targets, terms

__all__ = [
    "algorithms",
    "backbones",
    "comparisons",
    "layers",
    "memory",
    "necks",
    "preprocessing",
    "targets",
    "terms",
]
