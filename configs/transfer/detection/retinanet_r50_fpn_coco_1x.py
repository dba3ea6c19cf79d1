"""RetinaNet R50-FPN on COCO train2017, tested on val2017: 90k iterations of 16 images.

SyncBN in backbone and FPN, lr 0.01. For the 2x schedule: max_iters=180000.

Published AP / AP50 / AP75 (DetCo, table 5): MoCo v1 36.3 / 55.0 / 39.0, MoCo v2 37.2 /
56.2 / 39.6; 2x: MoCo v1 38.7 / 57.9 / 41.5, MoCo v2 39.3 / 58.9 / 42.1.

Differs from detectron2: the loss is divided by the positives of the batch, not by
their running mean; P6 and P7 have a norm layer too. More in README.md.

    config=configs/transfer/detection/retinanet_r50_fpn_coco_1x.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH
"""

_base_ = [
    "../_base_/detection/coco.py",
    "../_base_/detection/resnet.py",
]

lr = 0.01

optim_wrapper = _base_.finetuning
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        _base_.with_fpn["data_preprocessor"], **_base_.band_preprocessor
    ),
    backbone=dict(_base_.with_fpn["backbone"], **_base_.bands_in),
    neck=dict(
        **_base_.fpn,
        start_level=1,
        add_extra_convs="on_input",  # P6 from the last stage
        relu_before_extra_convs=True,
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=_base_.num_classes,
        in_channels=_base_.fpn_channels,
        stacked_convs=4,
        feat_channels=_base_.fpn_channels,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0],
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
        loss_bbox=dict(type="L1Loss"),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0.001,  # the best anchor, however poor; as detectron2
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="PseudoSampler"),  # the focal loss takes all anchors
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=100,
    ),
)
