"""MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2003.04297).

Published linear probe: 67.5 top-1. Another number of GPUs: `--auto-scale-lr`.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/moco.py"]

tau_ins = 0.2
queue_len = 65536
momentum = 0.999
bn_splits = 8  # one GPU only: with a batch of 256, groups of 32 as on 8 GPUs

model = dict(
    **_base_.moco,
    neck=dict(
        type="MoCoV2Neck",
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
        out_channels=128,
    ),
    bn_splits=bn_splits,
)
