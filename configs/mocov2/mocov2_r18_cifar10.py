"""MoCo, ResNet-18 with the CIFAR stem, CIFAR-10, 200 epochs, one GPU x 512 images.

The recipe of the official MoCo demo, not symmetric. Published kNN (k=200, t=0.1):
82.6 top-1. From memory, unverified: the linear neck, and that kNN was measured on the
embedding; both figures are logged. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/moco.py"]

model = dict(
    **_base_.moco,
    neck=dict(
        _base_.linear_neck,
        **_base_.linear_pooling,
        in_channels=_base_.backbone_channels,
    ),
    bn_splits=4 if _base_.cpu else 8,  # groups of 64
)
