"""Layers shared by the algorithms."""

from .batch_norm import (
    SplitBatchNorm,
    shuffle_batch,
    split_batch_norm,
    unshuffle_batch,
)

__all__ = ["SplitBatchNorm", "shuffle_batch", "split_batch_norm", "unshuffle_batch"]
