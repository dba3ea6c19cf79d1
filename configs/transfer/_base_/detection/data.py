"""Detection on any data: pipelines, loaders and schedule, by variables.

The values are those of COCO's 1x schedule; each data set has its own.
"""

_base_ = ["../runtime.py", "../bands.py"]

classes = None  # names; None: those of the data set
dataset_classes = 80  # how many it has
masks = False  # True: of the objects, for instance segmentation

short_sides = tuple(range(640, 801, 32))  # chosen at random per image in training
test_size = 800  # short side
max_size = 1333  # of the long side

batch_size = 2  # per GPU; 8 GPUs
num_workers = 4
lr = 0.02  # for `lr_batch` images
lr_batch = 16
max_iters = 90000
validations = 3
longest_warmup = 1000
lr_steps = (2 / 3, 8 / 9)  # shares of max_iters after which the rate is a tenth
val_interval = max(max_iters // validations, 1)
warmup_iters = max(min(longest_warmup, max_iters // 10), 2)

num_classes = len(classes) if classes else dataset_classes
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

band_preprocessor = (
    dict(type="mmssl_ext.DetBandsPreprocessor", bgr_to_rgb=False, **_base_.as_bands)
    if _base_.as_bands
    else {}
)
annotations = dict(
    type="LoadAnnotations", with_bbox=True, **(dict(with_mask=True) if masks else {})
)
train_pipeline = [
    _base_.load,
    annotations,
    dict(
        type="RandomChoiceResize",
        scales=[(max_size, side) for side in short_sides],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    _base_.load,
    dict(type="Resize", scale=(max_size, test_size), keep_ratio=True),
    annotations,  # boxes of the original image
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
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader

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
        milestones=[round(max_iters * share) for share in lr_steps],
        gamma=0.1,
    ),
]
auto_scale_lr = dict(base_batch_size=lr_batch)

visualizer = dict(type="DetLocalVisualizer", vis_backends=_base_.vis_backends)
log_processor = dict(by_epoch=False)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=val_interval))
