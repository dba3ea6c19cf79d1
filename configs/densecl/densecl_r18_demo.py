"""DenseCL on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/densecl.py"]

model = dict(
    **_base_.densecl,
    neck=dict(
        _delete_=True,
        **_base_.dense_neck,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
    ),
)
