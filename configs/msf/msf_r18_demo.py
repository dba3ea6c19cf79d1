"""MSF on the demo scenes: minutes on two CPU cores; CMSF builds on it."""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/msf.py"]

bank_len = 1024  # a third of the scenes
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
    bn_splits=2,  # groups of 32
)
