"""SimSiam on the demo scenes: minutes on two CPU cores.

Projector and predictor are small.
"""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/simsiam.py"]

embed_channels = 256
predictor_channels = 64

model = dict(
    **_base_.simsiam,
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
optim_wrapper = dict(paramwise_cfg=_base_.fixed_rate)
