"""Faster R-CNN on FPN with detectron2's settings (Base-RCNN-FPN)."""

_base_ = "rcnn.py"

fc_channels = 1024  # of the box head

model = dict(
    **_base_.with_fpn,
    neck=_base_.fpn,
    rpn_head=dict(
        in_channels=_base_.fpn_channels,
        feat_channels=_base_.fpn_channels,
        anchor_generator=dict(
            type="AnchorGenerator",
            base_sizes=list(_base_.anchor_sizes),  # one per level
            scales=[1.0],
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=_base_.fpn_channels,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type="Shared2FCBBoxHead",
            in_channels=_base_.fpn_channels,
            fc_out_channels=fc_channels,
        ),
    ),
)
