"""DetCo on CIFAR-10 in the recipe of the official MoCo demo; no published figure.

Patches of 8 px are a check of the method, not its use: expect a kNN below MoCo's.
Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/detco.py"]
from mmssl_ext.backbones import network

patch_source = 33  # px
patch_size = 8

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
