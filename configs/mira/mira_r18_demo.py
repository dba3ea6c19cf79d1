"""MIRA on the demo scenes: minutes on two CPU cores.

The projector is small, and few prototypes suit few images. As for SwAV, targets need
more contrast than on ImageNet: in a trial of 120 steps the loss stayed at ln M with the
usual target_temperature of 0.225, and fell with 0.1.
"""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/mira.py"]

hid_channels = 512
out_channels = 128
num_prototypes = 64
target_temperature = 0.1

model = dict(
    **_base_.mira,
    pairs=dict(locals=_base_.local_crops),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
