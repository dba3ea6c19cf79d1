"""FCOS R50-FPN on COCO train2017, tested on val2017: 90k iterations of 16 images.

With the improvements of the authors' newer code (center sampling, centerness beside the
box branch, normalised targets, GIoU), as in AdelaiDet. SyncBN in backbone and FPN,
group norm in the head, so `fpn_channels` must be a multiple of 32.

Published AP (DenseCL repository): MoCo v2 40.3, DenseCL 40.9, supervised 39.9.

The short side is drawn from 640 to 800 px and BatchNorm spans the GPUs, as AdelaiDet's
config for these runs says. Differs from it: P6 and P7 have a norm layer too. More in
README.md.

    config=configs/transfer/detection/fcos_r50_fpn_coco_1x.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH
"""

_base_ = [
    "../_base_/detection/coco.py",
    "../_base_/detection/resnet.py",
]

lr = 0.01

optim_wrapper = _base_.finetuning
model = dict(
    type="FCOS",
    data_preprocessor=dict(
        _base_.with_fpn["data_preprocessor"], **_base_.band_preprocessor
    ),
    backbone=dict(_base_.with_fpn["backbone"], **_base_.bands_in),
    neck=dict(
        **_base_.fpn,
        start_level=1,
        add_extra_convs="on_output",  # P6 from P5
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type="FCOSHead",
        num_classes=_base_.num_classes,
        in_channels=_base_.fpn_channels,
        stacked_convs=4,
        feat_channels=_base_.fpn_channels,
        strides=[8, 16, 32, 64, 128],
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type="GIoULoss"),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True),
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=100,
    ),
)
