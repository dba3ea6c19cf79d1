"""MIRA, ResNet-18 with the CIFAR stem, CIFAR-10, in the recipe of the MoCo demo.

No published figure. Ten prototypes for each class, since the assignment needs about as
many images in a step. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/mira.py"]

hid_channels = 512
out_channels = 128
num_prototypes = 100

model = dict(
    **_base_.mira,
    pairs=dict(locals=_base_.local_crops),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
