"""DetCo, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2102.04803).

Published: linear probe 68.6 top-1 (MoCo v2: 67.5), VOC07 SVM 85.1 (84.1), VOC detection
57.8 AP (57.0), COCO Mask R-CNN FPN 1x 39.5 box AP (38.9). Unverified: the level weights
and the hidden width of the heads. Without RandAugment ("DetCo", not "DetCo+AA").
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/detco.py"]
from mmssl_ext.backbones import network

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
