"""DetCo on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/detco.py"]
from mmssl_ext.backbones import network

patch_source = 64  # px
patch_size = 16

levels = network(_base_.backbone, "stages")  # a ViT has maps of one size
model = dict(
    type="DetCo",
    backbone=dict(out_indices=tuple(levels["levels"])),
    neck=dict(
        _delete_=True,
        **_base_.level_neck,
        in_channels=tuple(levels["stages"]),
    ),
    head=dict(_delete_=True, **_base_.level_head, temperature=_base_.tau_ins),
)

view = _base_.view
patches = [_base_.patch_crop, *view[1:], _base_.cut]  # the changes of the whole view
views = dict(type="MakeViews", views=[view, view, patches, patches])
train_pipeline = [
    _base_.decoder,
    dict(**views, augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
