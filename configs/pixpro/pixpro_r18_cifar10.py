"""PixPro on CIFAR-10 in the recipe of `byol_r18_cifar10.py`; no published figure.

With 4 x 4 cells of 32 px it is a check of the method, not its use: expect a kNN below
BYOL's. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../byol/byol_r18_cifar10.py", "../_base_/models/pixpro.py"]

model = dict(
    _delete_=True,
    type="PixPro",
    pixel=_base_.pixel,
    momentum=_base_.byol["momentum"],
    neck=dict(
        type="ConvProjector",
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.hid_channels,
        out_channels=_base_.out_channels,
    ),
    backbone=_base_.model["backbone"],
    data_preprocessor=_base_.model["data_preprocessor"],
)
