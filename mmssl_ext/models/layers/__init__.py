"""Layers shared by the algorithms."""

from .batch_norm import (
    SplitBatchNorm,
    protect_batch_norm,
    split_batch_norm,
    without_statistics,
)
from .dropout import without_dropout
from .exchange import (
    Exchange,
    exchange_rows,
    plan_exchange,
    shuffle_batch,
    unshuffle_batch,
)
from .gather import gather_rows, logsumexp_of_all, mean_of_all
from .geometry import (
    apart,
    centre_grid,
    overlap,
    overlap_grid,
    pairs,
    require_boxes,
    sample,
    warp,
)
from .roi import box_iou, jitter_boxes, pool_boxes
from .unit import unit

__all__ = [
    "Exchange",
    "SplitBatchNorm",
    "apart",
    "box_iou",
    "centre_grid",
    "exchange_rows",
    "gather_rows",
    "jitter_boxes",
    "logsumexp_of_all",
    "mean_of_all",
    "overlap",
    "overlap_grid",
    "pairs",
    "plan_exchange",
    "pool_boxes",
    "protect_batch_norm",
    "require_boxes",
    "sample",
    "shuffle_batch",
    "split_batch_norm",
    "unit",
    "unshuffle_batch",
    "warp",
    "without_dropout",
    "without_statistics",
]
