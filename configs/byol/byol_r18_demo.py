"""BYOL on the demo scenes: minutes on two CPU cores.

Projector and predictor are small; SGD, and the views of the other methods, two alike.
"""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/byol.py"]

hid_channels = 512
out_channels = 128

model = dict(
    **_base_.byol,
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
