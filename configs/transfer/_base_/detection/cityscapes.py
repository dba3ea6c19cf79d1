"""Cityscapes instances in COCO's format, and the 24k schedule of 8 images on them."""

_base_ = "../runtime.py"

# A data set of the same layout: its root, files and classes.
data_root = "{{$CITYSCAPES_ROOT:data/cityscapes}}"
train_annotations = "annotations/instancesonly_filtered_gtFine_train.json"
train_images = "leftImg8bit/train"
val_annotations = "annotations/instancesonly_filtered_gtFine_val.json"
val_images = "leftImg8bit/val"
classes = None  # names; None = the 8 of Cityscapes

short_sides = tuple(range(800, 1025, 32))  # drawn per image in training
test_size = 1024  # short side
max_size = 2048  # of the long side

batch_size = 1  # per GPU; 8 GPUs
num_workers = 4
lr = 0.01  # for 8 images
max_iters = 24000
val_interval = max(max_iters // 3, 1)
warmup_iters = max(min(1000, max_iters // 10), 2)

num_classes = len(classes) if classes else 8
metainfo = (
    dict(
        classes=tuple(classes),
        palette=[
            (37 * c % 256, 91 * c % 256, 153 * c % 256)
            for c in range(1, num_classes + 1)
        ],
    )
    if classes
    else None
)

custom_imports = dict(imports=["mmssl_ext.transfer.detection"])
default_scope = "mmdet"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        scales=[(max_size, side) for side in short_sides],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(max_size, test_size), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(
        type="mmssl_ext.CityscapesDetectionDataset",
        data_root=data_root,
        ann_file=train_annotations,
        data_prefix=dict(img=train_images),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmssl_ext.CityscapesDetectionDataset",
        data_root=data_root,
        ann_file=val_annotations,
        data_prefix=dict(img=val_images),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="mmssl_ext.CocoDetectionMetric",
    ann_file=f"{data_root}/{val_annotations}",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator

train_cfg = dict(
    type="IterBasedTrainLoop", max_iters=max_iters, val_interval=val_interval
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0),  # as detectron2
)
param_scheduler = [
    dict(
        type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=warmup_iters
    ),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        milestones=[round(max_iters * 3 / 4)],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(base_batch_size=8)

visualizer = dict(
    type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")]
)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=val_interval),
    result=dict(
        metrics={
            "mask AP": "coco/segm_mAP",
            "mask AP50": "coco/segm_mAP_50",
            "box AP": "coco/bbox_mAP",
            "box AP50": "coco/bbox_mAP_50",
        }
    ),
)
