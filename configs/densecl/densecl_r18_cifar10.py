"""DenseCL on CIFAR-10 in the recipe of the official MoCo demo; no published figure.

Dense learning on 32 px is a check of the method, not its use: expect a kNN below
MoCo's. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/densecl.py"]

start_iters = 100 if _base_.cpu else 200  # half an epoch, or 2

model = dict(
    **_base_.densecl,
    neck=dict(
        _delete_=True,
        **_base_.dense_neck,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
    ),
)
