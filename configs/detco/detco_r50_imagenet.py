"""DetCo, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2102.04803).

Published: linear probe 68.6 top-1 (MoCo v2: 67.5), VOC07 SVM 85.1 (84.1), VOC detection
57.8 AP (57.0), COCO Mask R-CNN FPN 1x 39.5 box AP (38.9). Unverified: the level weights
and the hidden width of the heads. Without RandAugment ("DetCo", not "DetCo+AA").
"""

_base_ = "../mocov2/mocov2_r50_imagenet.py"

level_weights = (0.1, 0.4, 0.7, 1.0)  # of res2, res3, res4, res5
tau_ins = 0.2
hid_channels = None  # hidden width of the heads; None: the channels of each stage
patch_source = 255  # px: the crop that is cut into 3 x 3 cells ...
patch_size = 64  # ... of which each gives a patch of this side

model = dict(
    type="DetCo",
    backbone=dict(out_indices=(0, 1, 2, 3)),
    neck=dict(
        _delete_=True,
        type="MultiLevelNeck",
        in_channels=(256, 512, 1024, 2048),
        hid_channels=hid_channels,
        out_channels=128,
        num_patches=9,
    ),
    head=dict(
        _delete_=True,
        type="MultiLevelSoftmax",
        temperature=tau_ins,
        level_weights=level_weights,
    ),
)

view = _base_.view
patches = [
    dict(type="RandomResizedCrop", size=patch_source, scale=(0.6, 1.0)),
    *view[1:],  # the changes of the whole view
    dict(type="CutPatches", size=patch_size, grid=3),
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(
        type="MakeViews",
        views=[view, view, patches, patches],
        augment_on=_base_.augment_on,
    ),
    dict(type="PackViews"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
