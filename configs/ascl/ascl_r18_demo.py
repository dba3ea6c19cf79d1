"""ASCL on the demo scenes: minutes on two CPU cores.

Differs from `mocov2_r18_demo.py` by the label and by the key's view, which is cropped
and mirrored alone.
"""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/ascl.py"]


model = dict(**_base_.ascl)

weak = [_base_.crop, _base_.flip]
train_pipeline = [
    _base_.decoder,
    dict(type="MakeViews", views=[_base_.view, weak], augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
