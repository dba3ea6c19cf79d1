"""Faster R-CNN R50-C4 on VOC07+12 trainval, tested on VOC07 test: the MoCo protocol.

24k iterations of 16 images, one extra norm layer after res5 (arXiv 1911.05722, section
4.2 and the official repository's detection configs).

Published, AP50 / AP / AP75, mean of 5 runs (MoCo repository): MoCo v1 81.5 / 55.9 /
62.6, MoCo v2 82.4 / 57.0 / 63.6, MoCo v2 of 800 epochs 82.5 / 57.4 / 64.0, supervised
81.3 / 53.5 / 58.8; random weights AP 33.8 (DetCo). One run scatters by 0.2 / 0.2 / 0.4.

Differs from the official code: no precise BN before the test, OpenCV instead of PIL
resizes the images. More in README.md.

    config=configs/transfer/detection/faster_rcnn_r50_c4_voc0712.py
    bash tools/dist_train.sh $config 8 --cfg-options checkpoint=PATH
"""

_base_ = [
    "../_base_/detection/voc0712.py",
    "../_base_/detection/rcnn_c4.py",
]

model = dict(
    data_preprocessor=_base_.band_preprocessor,
    backbone=_base_.bands_in,
    roi_head=dict(bbox_head=dict(num_classes=_base_.num_classes)),
)
