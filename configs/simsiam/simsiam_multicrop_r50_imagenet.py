"""SimSiam with six small crops, ResNet-50, ImageNet: SwAV's crops on another base.

All crops are to predict both large ones, 14 pairs. No paper gives a figure for this
recipe.
"""

_base_ = "simsiam_r50_imagenet.py"

local_crops = 6
crop_scale = (0.14, 1.0)

model = dict(
    pairs=dict(locals=local_crops),
    grouping="size",
)
