"""Layers shared by the algorithms."""

from .batch_norm import (
    SplitBatchNorm,
    protect_batch_norm,
    shuffle_batch,
    split_batch_norm,
    unshuffle_batch,
)

__all__ = [
    "SplitBatchNorm",
    "protect_batch_norm",
    "shuffle_batch",
    "split_batch_norm",
    "unshuffle_batch",
]
