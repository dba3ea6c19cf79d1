"""Mask R-CNN R50-FPN on Cityscapes fine instances: 24k iterations of 8 images.

Trained on train, tested on val, 8 classes, from the pretrained backbone alone (no COCO
detector in between). `fpn_variant` as in the COCO configs; the published numbers are
variant A.

Published mask AP / AP50 (DetCo, table 7): MoCo v1 32.3 / 59.3, MoCo v2 33.9 / 60.8,
supervised 32.9 / 59.6, DetCo 34.7 / 63.2.

The annotations are those of Cityscapes converted to COCO's format by mmdet's
tools/dataset_converters/cityscapes.py. AP is COCO's, of which cityscapesscripts' own
differs a little (it matches by pixels and treats groups of objects in another way). For
the benchmark's figure evaluate the checkpoint with mmdet's CityScapesMetric, for which
cityscapesscripts must be installed.

    config=configs/transfer/detection/mask_rcnn_r50_fpn_cityscapes.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH
"""

_base_ = [
    "../_base_/detection/cityscapes.py",
    "../_base_/detection/mask_rcnn_fpn.py",
]

optim_wrapper = _base_.finetuning
model = dict(
    data_preprocessor=_base_.band_preprocessor,
    backbone=_base_.bands_in,
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
)
