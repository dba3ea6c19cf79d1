"""Mask R-CNN R50-C4 on COCO train2017, tested on val2017: 90k iterations of 16 images.

With the extra norm layer after res5 (arXiv 1911.05722, appendix B).

Published box / mask AP (DetCo, table 4): MoCo v1 38.5 / 33.6, MoCo v2 38.9 / 34.2,
supervised 38.2 / 33.3. 2x, by `max_iters=180000 val_interval=30000` (table
13): MoCo v1 40.7 / 35.4, MoCo v2 41.0 / 35.6.

Differs from the official code: masks are bitmaps instead of polygons, no precise BN
before the test, OpenCV instead of PIL resizes the images. More in README.md.

    config=configs/transfer/detection/mask_rcnn_r50_c4_coco_1x.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH
"""

_base_ = [
    "../_base_/detection/coco.py",
    "../_base_/detection/rcnn_c4.py",
]

masks = True

model = dict(
    type="MaskRCNN",
    data_preprocessor=_base_.band_preprocessor,
    backbone=_base_.bands_in,
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_roi_extractor=None,  # masks come from the regions of the boxes
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=0,
            in_channels=_base_.res4_channels * 2,
            conv_out_channels=256,
            num_classes=_base_.num_classes,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=14)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
