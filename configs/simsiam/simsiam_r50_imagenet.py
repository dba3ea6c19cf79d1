"""SimSiam, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2011.10566).

Published linear probe: 70.0 top-1. The sizes of projector and predictor and the
predictor's constant rate are those of the official code.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/simsiam.py"]

lr = 0.05  # for a batch of 256; the predictor keeps it
projector_layers = 3

model = dict(
    **_base_.simsiam,
    backbone=dict(zero_init_residual=True),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
optim_wrapper = dict(paramwise_cfg=_base_.fixed_rate)
