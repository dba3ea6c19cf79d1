"""BYOL with two small crops on the demo scenes: minutes on two CPU cores.

All crops are to predict both large ones, 6 pairs. The loss is the mean over the
pairs times 2, so that its scale stays.
"""

_base_ = "byol_r18_demo.py"

local_crops = 2

model = dict(
    pairs=dict(locals=local_crops),
    grouping="size",
    reduce="mean",
    weights=dict(instance=2.0),
)
