"""Faster R-CNN on the third stage, res5 and an extra norm per region.

The settings are those of detectron2's Base-RCNN-C4 with MoCo's changes: SyncBN, all
layers trained, Res5ROIHeadsExtraNorm.
"""

checkpoint = "work_dirs/co2_r50_imagenet/epoch_200.pth"  # None: random weights
encoder = "query"  # or "key"
depth = 50  # 18, 34, 50, 101
base_channels = 64  # 32 for half the width
anchor_sizes = (32, 64, 128, 256, 512)
rpn_samples = 256
roi_samples = 512

expansion = 4 if depth >= 50 else 1
res4_channels = base_channels * 4 * expansion
norm_cfg = dict(type="BN", requires_grad=True)  # SyncBN on several GPUs: sync_bn
init_cfg = (
    dict(type="mmssl_ext.PretrainedBackbone", checkpoint=checkpoint, encoder=encoder)
    if checkpoint
    else None
)

model = dict(
    type="FasterRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
    ),
    backbone=dict(
        type="ResNet",
        depth=depth,
        base_channels=base_channels,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
        init_cfg=init_cfg,
    ),
    rpn_head=dict(
        type="RPNHead",
        in_channels=res4_channels,
        feat_channels=res4_channels,
        anchor_generator=dict(
            type="AnchorGenerator",
            scales=[size / 16 for size in anchor_sizes],
            ratios=[0.5, 1.0, 2.0],
            strides=[16],
        ),
        bbox_coder=dict(
            type="DeltaXYWHBBoxCoder",
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0],
        ),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True),
        loss_bbox=dict(type="L1Loss"),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        shared_head=dict(
            type="mmssl_ext.ResLayerExtraNorm",
            depth=depth,
            base_channels=base_channels,
            norm_cfg=norm_cfg,
            init_cfg=dict(init_cfg, absent=("norm",)) if init_cfg else None,
        ),
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=res4_channels,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type="BBoxHead",
            with_avg_pool=True,
            in_channels=res4_channels * 2,
            roi_feat_size=7,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            loss_cls=dict(type="CrossEntropyLoss"),
            loss_bbox=dict(type="L1Loss"),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.001,  # the best anchor, however poor; as detectron2
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=rpn_samples,
                pos_fraction=0.5,
                add_gt_as_proposals=False,
            ),
            allowed_border=-1,
            pos_weight=-1,
        ),
        rpn_proposal=dict(
            nms_pre=12000,
            max_per_img=2000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=roi_samples,
                pos_fraction=0.25,
                add_gt_as_proposals=True,
            ),
            pos_weight=-1,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=6000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.7),
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.5),
            max_per_img=100,
        ),
    ),
)
