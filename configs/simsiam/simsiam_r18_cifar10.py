"""SimSiam, ResNet-18 with the CIFAR stem, CIFAR-10, one GPU x 512 images.

From memory, unverified: the recipe of the paper's CIFAR-10 experiment (800 epochs
there), projector of two layers, rate 0.03 at 256, which makes 0.06 here.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/simsiam.py"]

model = dict(
    **_base_.simsiam,
    backbone=dict(zero_init_residual=True),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
optim_wrapper = dict(paramwise_cfg=_base_.fixed_rate)
