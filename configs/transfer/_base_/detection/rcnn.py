"""What Faster and Mask R-CNN share on C4 and on FPN: detectron2's settings."""

_base_ = "resnet.py"

anchor_sizes = (32, 64, 128, 256, 512)
rpn_samples = 256
roi_samples = 512
# Proposals before and after NMS
train_proposals = (2000, 1000)
test_proposals = (1000, 1000)

assigner = dict(type="MaxIoUAssigner", ignore_iof_thr=-1)
sampler = dict(type="RandomSampler")
nms = dict(nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0)
model = dict(
    type="FasterRCNN",
    rpn_head=dict(
        type="RPNHead",
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
        bbox_head=dict(
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
                **assigner,
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.001,  # the best anchor, however poor; as detectron2
                match_low_quality=True,
            ),
            sampler=dict(
                **sampler,
                num=rpn_samples,
                pos_fraction=0.5,
                add_gt_as_proposals=False,
            ),
            allowed_border=-1,
            pos_weight=-1,
        ),
        rpn_proposal=dict(
            **nms, nms_pre=train_proposals[0], max_per_img=train_proposals[1]
        ),
        rcnn=dict(
            assigner=dict(
                **assigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
            ),
            sampler=dict(
                **sampler,
                num=roi_samples,
                pos_fraction=0.25,
                add_gt_as_proposals=True,
            ),
            pos_weight=-1,
        ),
    ),
    test_cfg=dict(
        rpn=dict(**nms, nms_pre=test_proposals[0], max_per_img=test_proposals[1]),
        rcnn=dict(
            score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100
        ),
    ),
)
