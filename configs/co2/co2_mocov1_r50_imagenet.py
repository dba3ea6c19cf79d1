"""CO2 on MoCo v1, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 (arXiv 2010.02217).

Published linear probe: 63.5 top-1 (MoCo v1: 60.6; the gain of 2.9 is read in the
abstract). From memory, unverified: alpha and tau_con, and the steps of the rate.
MoCo v1 has a linear neck, temperature 0.07, no blur, and gray before a jitter that
always applies.
"""

_base_ = "../mocov2/mocov2_r50_imagenet.py"

alpha = 10  # weight of the consistency term
tau_con = 0.04
tau_ins = 0.07
jitter = (0.4, 0.4, 0.4, 0.4)

model = dict(
    type="CO2",
    neck=dict(
        _base_.linear_neck,
        **_base_.linear_pooling,
        _delete_=True,
        in_channels=_base_.backbone_channels,
    ),
    consistency=dict(temperature=tau_con, weight=alpha),
)

view = [_base_.crop, _base_.gray, dict(_base_.color_jitter, prob=1.0), _base_.flip]
train_pipeline = [
    _base_.decoder,
    dict(type="MakeViews", views=[view, view], augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

param_scheduler = [
    dict(type="MultiStepLR", milestones=[120, 160], gamma=0.1, by_epoch=True)
]
