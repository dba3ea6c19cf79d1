"""Mask R-CNN R50-FPN on COCO train2017, tested on val2017: 90k iterations of 16 images.

Two variants are in use, and their numbers must not be compared: `fpn_variant="A"`
(box head of 2 fc, SyncBN in backbone and FPN; OpenSelfSup, DetCo, RegionCL) and `"B"`
(box head of 4 convolutions and 1 fc, SyncBN in all heads; PyContrast, DenseCL,
mmselfsup).

Published box / mask AP: A (DetCo, table 4): MoCo v1 38.5 / 35.1, MoCo v2 38.9 / 35.5,
supervised 38.9 / 35.4. B (InsLoc model zoo): MoCo v2 39.8 / 36.1, MoCo v2 of 800 epochs
40.4 / 36.4, supervised 39.7 / 35.9, random weights 32.8 / 29.9; MoCo v1 39.4 / 35.6
(PyContrast); MoCo v2 in mmdet 40.2 / 36.1 (mmselfsup).
2x, by `max_iters=180000 val_interval=30000`: A (DetCo, table 13): MoCo v1 40.8 / 36.9,
MoCo v2 40.9 / 37.0. B (InsLoc model zoo): MoCo v2 41.7 / 37.6, of 800 epochs 42.5 /
38.2.

Differs from detectron2: masks are bitmaps instead of polygons, no precise BN before
the test, OpenCV instead of PIL resizes the images. More in README.md.

    config=configs/transfer/detection/mask_rcnn_r50_fpn_coco_1x.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH fpn_variant=B
"""

_base_ = [
    "../_base_/detection/coco.py",
    "../_base_/detection/mask_rcnn_fpn.py",
]

masks = True

optim_wrapper = _base_.finetuning
model = dict(
    data_preprocessor=_base_.band_preprocessor,
    backbone=_base_.bands_in,
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
