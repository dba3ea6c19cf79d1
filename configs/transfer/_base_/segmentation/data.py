"""Semantic segmentation on any data: pipelines, loaders and schedule, by variables.

A data set says where images and label maps are: `classes` and `palette` are for others
of its layout. The values are those of FCN on VOC.
"""

_base_ = ["../runtime.py", "../bands.py"]

classes = None  # names of the class numbers 0, 1, ...; None: those of the data set
palette = None  # [[r, g, b], ...] for pictures, with `classes`; None: at random
dataset_classes = 21  # how many the data set has
dataset_type = "PascalVOCDataset"
ignore_index = 255
reduce_zero_label = False  # True: 0 is ignored and 1 becomes the first class
crop_size = (512, 512)  # height, width
scale = (2048, 512)  # largest long and short side
ratio_range = (0.5, 2.0)
align_corners = False  # of the maps when they are enlarged
batch_size = 4  # per GPU
num_workers = 4
lr = 0.01  # for `lr_batch` images
lr_batch = 16
max_iters = 20000
val_interval = max_iters // 10 or 1

default_scope = "mmseg"
custom_imports = dict(
    imports=["mmssl_ext.transfer.segmentation"], allow_failed_imports=False
)

num_classes = len(classes) if classes else dataset_classes
dataset = dict(
    type="BaseSegDataset" if classes else dataset_type,
    metainfo=dict(classes=classes, palette=palette or []) if classes else None,
    ignore_index=ignore_index,
    reduce_zero_label=reduce_zero_label,
)
per_label = dict(
    num_classes=num_classes, ignore_index=ignore_index, align_corners=align_corners
)
band_preprocessor = (
    dict(type="mmssl_ext.SegBandsPreprocessor", bgr_to_rgb=False, **_base_.as_bands)
    if _base_.as_bands
    else {}
)
fitted = dict(  # what a model takes from the data
    data_preprocessor=dict(
        size=crop_size, seg_pad_val=ignore_index, **band_preprocessor
    ),
    backbone=_base_.bands_in,
    decode_head=per_label,
    auxiliary_head=per_label,
)
train_pipeline = [
    _base_.load,
    dict(type="LoadAnnotations"),
    dict(type="RandomResize", scale=scale, ratio_range=ratio_range, keep_ratio=True),
    dict(
        type="RandomCrop",
        crop_size=crop_size,
        cat_max_ratio=0.75,
        ignore_index=ignore_index,
    ),
    dict(type="RandomFlip", prob=0.5),
    *([] if _base_.as_bands else [dict(type="PhotoMetricDistortion")]),  # it needs RGB
    dict(type="PackSegInputs"),
]
test_pipeline = [
    _base_.load,
    dict(type="Resize", scale=scale, keep_ratio=True),
    dict(type="LoadAnnotations"),  # after Resize: scored at the size of the label map
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="mmssl_ext.SegmentationMetric",
    iou_metrics=["mIoU"],
    ignore_index=ignore_index,
)
test_evaluator = val_evaluator

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = [
    dict(type="PolyLR", power=0.9, eta_min=lr / 100, end=max_iters, by_epoch=False)
]
train_cfg = dict(
    type="IterBasedTrainLoop", max_iters=max_iters, val_interval=val_interval
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
auto_scale_lr = dict(base_batch_size=lr_batch)

log_processor = dict(by_epoch=False)
visualizer = dict(
    type="SegLocalVisualizer",
    name="visualizer",
    vis_backends=_base_.vis_backends,
    alpha=0.6,
)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=val_interval),
    result=dict(metrics=dict(mIoU="mIoU", mAcc="mAcc", aAcc="aAcc")),
)
