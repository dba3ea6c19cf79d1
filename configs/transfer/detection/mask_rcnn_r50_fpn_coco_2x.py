"""Mask R-CNN R50-FPN on COCO, 180k iterations of 16 images; see the 1x config.

Published box / mask AP: variant A (DetCo, table 13): MoCo v1 40.8 / 36.9, MoCo v2
40.9 / 37.0. Variant B (InsLoc model zoo): MoCo v2 41.7 / 37.6, MoCo v2 of 800 epochs
42.5 / 38.2.

    config=configs/transfer/detection/mask_rcnn_r50_fpn_coco_2x.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH fpn_variant=A
"""

_base_ = "mask_rcnn_r50_fpn_coco_1x.py"

max_iters = 180000
val_interval = max(max_iters // 6, 1)

train_cfg = dict(max_iters=max_iters, val_interval=val_interval)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(
        _base_.param_scheduler[1],
        milestones=[round(max_iters * 2 / 3), round(max_iters * 8 / 9)],
    ),
]
default_hooks = dict(checkpoint=dict(interval=val_interval))
