"""CCOP, ResNet-50 and FPN, COCO without labels, 800 epochs, 8 GPUs x 32 (2111.13651).

Set COCO_ROOT, or edit `data_root`, and make the proposals, from the images alone:

    python tools/make_proposals.py data/coco/train2017 data/coco/proposals.json \
        --method selective-search

No published figure was readable. The paper trains in single precision:
`precision=float32`. There is no kNN, because COCO has no image classes.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/ccop.py"]
from mmssl_ext.backbones import network

data_root = "{{$COCO_ROOT:data/coco}}"
train_folder = "train2017"
proposals = data_root + "/proposals.json"
crop_scale = (0.1, 1.0)
max_epochs = 800
lr = 0.3
lr_warmup = 10

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
    dict(type="LoadProposals", ann_file=proposals, root=_base_.train_root),
    dict(type="MakeViews", views=[view, view], augment_on=_base_.augment_on),
    _base_.place,
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
default_hooks = dict(knn=None)
