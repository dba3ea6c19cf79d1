"""SimSiam with two small crops on the demo scenes: minutes on two CPU cores.

All crops are to predict both large ones, 6 pairs.
"""

_base_ = "simsiam_r18_demo.py"

local_crops = 2

model = dict(
    pairs=dict(locals=local_crops),
    grouping="size",
)
