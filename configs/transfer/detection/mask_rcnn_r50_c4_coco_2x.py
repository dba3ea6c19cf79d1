"""Mask R-CNN R50-C4 on COCO, 180k iterations of 16 images; see the 1x config.

Published box / mask AP (DetCo, table 13): MoCo v1 40.7 / 35.4, MoCo v2 41.0 / 35.6.

    config=configs/transfer/detection/mask_rcnn_r50_c4_coco_2x.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH
"""

_base_ = "mask_rcnn_r50_c4_coco_1x.py"

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
