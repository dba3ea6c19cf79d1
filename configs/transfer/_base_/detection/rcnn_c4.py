"""Faster R-CNN on the third stage, res5 and an extra norm per region.

The settings are those of detectron2's Base-RCNN-C4 with MoCo's changes: SyncBN, all
layers trained, Res5ROIHeadsExtraNorm.
"""

_base_ = "rcnn.py"
from mmssl_ext.backbones import network

resnet = network(_base_.backbone, "resnet")  # other backbones are refused

train_proposals = (12000, 2000)
test_proposals = (6000, 1000)

pretrained = _base_.pretrained
res4_channels = _base_.backbone_channels // 2

model = dict(
    data_preprocessor=_base_.preprocessor,
    backbone=dict(
        **_base_.normed,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
    ),
    rpn_head=dict(
        in_channels=res4_channels,
        feat_channels=res4_channels,
        anchor_generator=dict(
            type="AnchorGenerator",
            scales=[size / 16 for size in _base_.anchor_sizes],
            ratios=[0.5, 1.0, 2.0],
            strides=[16],
        ),
    ),
    roi_head=dict(
        shared_head=dict(
            type="mmssl_ext.ResLayerExtraNorm",
            depth=_base_.depth,
            base_channels=_base_.base_channels,
            norm_cfg=_base_.norm_cfg,
            init_cfg=dict(pretrained, absent=("norm",)) if pretrained else None,
        ),
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=res4_channels,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type="BBoxHead", with_avg_pool=True, in_channels=res4_channels * 2
        ),
    ),
)
