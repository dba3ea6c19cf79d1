"""PixPro with its instance branch, ResNet-50, ImageNet, 100 epochs, 8 GPUs x 128.

Published COCO detection, Mask R-CNN with FPN: 41.3 box AP (without the branch: 40.8).
The released code has the branch, but no script for it; its weight is unverified.
"""

_base_ = "pixpro_r50_imagenet.py"

instance_weight = 1.0

model = dict(
    instance_weight=instance_weight,
    instance=dict(hid_channels=_base_.hid_channels),  # of projector and predictor
)
