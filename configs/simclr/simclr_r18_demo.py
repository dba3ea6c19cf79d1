"""SimCLR on the demo scenes: minutes on two CPU cores.

SGD, and the views of the other methods.
"""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/simclr.py"]

model = dict(
    **_base_.simclr,
    neck=dict(
        **_base_.projector,
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
    ),
)
