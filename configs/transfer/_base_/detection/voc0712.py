"""PASCAL VOC, and the 24k schedule of MoCo's detection transfer on it."""

_base_ = "../runtime.py"

# A data set of the same layout: its root, folders, splits and classes.
data_root = "{{$VOC_ROOT:data/VOCdevkit}}"
train_splits = (("VOC2007", "trainval"), ("VOC2012", "trainval"))
test_split = ("VOC2007", "test")
classes = None  # names; None = the 20 of VOC
img_suffix = ".jpg"  # of the images
eval_mode = "11points"  # what detectron2 uses on VOC 2007; "area" on VOC 2012

short_sides = tuple(range(480, 801, 32))  # drawn per image in training
test_size = 800  # short side
max_size = 1333  # of the long side

batch_size = 2  # per GPU; 8 GPUs
num_workers = 2
lr = 0.02  # for 16 images
max_iters = 24000
val_interval = max(max_iters // 4, 1)
warmup_iters = max(min(100, max_iters // 10), 2)

num_classes = len(classes) if classes else 20
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
    dict(type="LoadAnnotations", with_bbox=True),
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
    dict(type="LoadAnnotations", with_bbox=True),  # boxes of the original image
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
        type="ConcatDataset",
        ignore_keys=["dataset_type"],  # it names the year
        datasets=[
            dict(
                type="mmssl_ext.VOCDetectionDataset",
                data_root=data_root,
                ann_file=f"{folder}/ImageSets/Main/{split}.txt",
                data_prefix=dict(sub_data_root=f"{folder}/"),
                metainfo=metainfo,
                img_suffix=img_suffix,
                filter_cfg=dict(filter_empty_gt=True),
                pipeline=train_pipeline,
            )
            for folder, split in train_splits
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="mmssl_ext.VOCDetectionDataset",
        data_root=data_root,
        ann_file=f"{test_split[0]}/ImageSets/Main/{test_split[1]}.txt",
        data_prefix=dict(sub_data_root=f"{test_split[0]}/"),
        metainfo=metainfo,
        img_suffix=img_suffix,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="mmssl_ext.VOCDetectionMetric", eval_mode=eval_mode)
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
        milestones=[round(max_iters * 3 / 4), round(max_iters * 11 / 12)],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(base_batch_size=16)

visualizer = dict(
    type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")]
)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=val_interval),
    result=dict(
        metrics={
            "AP": "voc/AP",
            "AP50": "voc/AP50",
            "AP75": "voc/AP75",
            "AP50 (11 points)": "voc/AP50_11point",
        }
    ),
)
