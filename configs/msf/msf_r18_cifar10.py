"""MSF, ResNet-18 with the CIFAR stem, CIFAR-10, in the recipe of the MoCo demo.

No published figure. The bank has the ImageNet recipe's share of the images, a tenth.
Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/msf.py"]

bank_len = 4096
hid_channels = 2 * _base_.backbone_channels
out_channels = _base_.backbone_channels // 4
weak_target = True

model = dict(
    **_base_.msf,
    neck=dict(
        **_base_.projector,
        **_base_.last_bias,
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
    ),
    bn_splits=4 if _base_.cpu else 8,  # groups of 64
)
