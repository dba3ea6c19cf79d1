"""MoCo on the demo scenes: minutes on two CPU cores; others build on it."""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/moco.py"]

queue_len = 1024  # well below the 3,000 scenes

model = dict(
    **_base_.moco,
    neck=dict(
        _base_.linear_neck,
        **_base_.linear_pooling,
        in_channels=_base_.backbone_channels,
    ),
    bn_splits=2,  # groups of 32
)
