"""BYOL with six small crops, ResNet-50, ImageNet: SwAV's crops on another base.

All crops are to predict both large ones, 14 pairs. The loss is the mean over the
pairs times 2, so that its scale stays. No paper gives a figure for this recipe.
"""

_base_ = "byol_r50_imagenet.py"

local_crops = 6
crop_scale = (0.14, 1.0)

model = dict(
    pairs=dict(locals=local_crops),
    grouping="size",
    reduce="mean",
    weights=dict(instance=2.0),
)
