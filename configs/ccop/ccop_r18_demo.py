"""CCOP on the demo scenes: minutes on two CPU cores.

python tools/make_proposals.py data/demo/imagenet data/demo/imagenet/proposals.json
"""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/ccop.py"]
from mmssl_ext.backbones import network

proposals = _base_.data_root + "/proposals.json"
fpn_channels = 64
hid_channels = 256
copies = 4
max_boxes = 10
min_side = 6
limits = (3.5, 7, 14)  # of maps of 16, 8, 4 and 4 cells

levels = network(_base_.backbone, "stages")
model = dict(
    type="CCOP",
    backbone=dict(out_indices=tuple(levels["levels"])),
    neck=dict(
        _delete_=True,
        **_base_.head_neck,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
    ),
    objects=dict(
        **_base_.objects,
        fpn=dict(**_base_.fpn, in_channels=levels["stages"]),
    ),
)

view = [dict(_base_.crop, **_base_.object_crop), *_base_.view[1:]]
train_pipeline = [
    _base_.decoder,
    dict(type="LoadProposals", ann_file=proposals, root=_base_.data_root),
    dict(type="MakeViews", views=[view, view], augment_on=_base_.augment_on),
    _base_.place,
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
