"""A linear classifier on the backbone, and any folder in ImageNet's layout.

`data_root/train_folder/<class>/*.JPEG` to learn from, `data_root/test_folder/<class>/`
to test on. Set the environment variable IMAGENET_ROOT, or `data_root`.
"""

_base_ = "./backbone.py"

data_root = "{{$IMAGENET_ROOT:data/imagenet}}"
train_folder = "train"
test_folder = "val"
classes = None  # names of class folders; None: all folders in train_folder
num_classes = len(classes) if classes else 1000
depth = 50
base_channels = 64
image_size = 224
resize = 256  # short side of a test image before the central crop
batch_size = 32  # per GPU
test_batch_size = 128
num_workers = 8

model = dict(
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=num_classes,
        in_channels=base_channels * 8 * (4 if depth >= 50 else 1),
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)

train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="RandomResizedCrop", size=image_size, scale=(0.08, 1.0)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackViews"),
]
test_pipeline = [
    dict(type="DecodeImage"),
    dict(type="ResizeShort", size=resize),
    dict(type="CenterCrop", size=image_size),
    dict(type="PackViews"),
]
labelled = dict(
    type="LabelledFolder",
    classes=classes,
    classes_from=data_root + "/" + train_folder,
    num_classes=num_classes,
)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    pin_memory=True,
    drop_last=False,  # a few labels: use all of them
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        **labelled, root=data_root + "/" + train_folder, pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=test_batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        **labelled, root=data_root + "/" + test_folder, pipeline=test_pipeline
    ),
)
topk = (1, 5) if num_classes > 5 else (1,)
val_evaluator = dict(type="Accuracy", topk=topk)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
default_hooks = dict(
    result=dict(metrics={f"top{k}": f"accuracy/top{k}" for k in topk}),
)
auto_scale_lr = dict(base_batch_size=256)
