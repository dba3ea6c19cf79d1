"""MoCo v2 with six small crops, ResNet-50, ImageNet: SwAV's crops on another base.

The key is that of one large crop, and all other crops are queries, as in SSLight. 1.83
times the work of MoCo v2; no paper gives a figure for this recipe.
"""

_base_ = "mocov2_r50_imagenet.py"

local_crops = 6
crop_scale = (0.14, 1.0)

model = dict(pairs=dict(locals=local_crops, targets=1), grouping="size")
