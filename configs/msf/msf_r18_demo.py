"""MSF on the demo scenes: minutes on two CPU cores; CMSF builds on it."""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/msf.py"]

bank_len = 1024  # a third of the scenes
hid_channels = 2 * _base_.backbone_channels
out_channels = _base_.backbone_channels // 4

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

train_pipeline = [
    _base_.decoder,
    dict(
        type="MakeViews",
        views=[_base_.view, [_base_.crop, _base_.flip]],
        augment_on=_base_.augment_on,
    ),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
