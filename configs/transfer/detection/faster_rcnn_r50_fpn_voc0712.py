"""Faster R-CNN R50-FPN on VOC07+12: data and schedule of the MoCo protocol, with FPN.

Nobody publishes this combination; it is for small runs, where C4 with res5 on every
region is too slow, and for comparisons of one's own.

    config=configs/transfer/detection/faster_rcnn_r50_fpn_voc0712.py
    python tools/train.py $config --cfg-options checkpoint=PATH depth=18 \
        data_root=DIR "train_splits=[(VOC2007,trainval)]" \
        "classes=(RBC,WBC,Platelets)" max_iters=2000 batch_size=4 lr=0.005 \
        "short_sides=(320,352,384)" test_size=352 max_size=640
"""

_base_ = [
    "../_base_/detection/voc0712.py",
    "../_base_/detection/rcnn_fpn.py",
]

optim_wrapper = _base_.finetuning
model = dict(
    data_preprocessor=_base_.band_preprocessor,
    backbone=_base_.bands_in,
    roi_head=dict(bbox_head=dict(num_classes=_base_.num_classes)),
)
