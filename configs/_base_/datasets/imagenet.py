"""ImageNet-1k: two MoCo v2 views for pretraining, plain crops for kNN.

Set the environment variable IMAGENET_ROOT, or edit `data_root`. Training reads every
image below `train/` and no labels; kNN takes its labels from the class folders
(`train/n01440764/...`, `val/n01440764/...`). Without labels, switch it off:
`--cfg-options default_hooks.knn=None`.
"""

_base_ = "../runtime_fast.py"

data_root = "{{$IMAGENET_ROOT:data/imagenet}}"
storage = "ImageFolder"  # or "ImageShards", by tools/make_shards.py, for train and val
batch_size = 32  # per GPU; 8 GPUs make the paper's 256
num_workers = 8
augment_on = "device"  # only decode and crop on the loader's CPU cores; "worker": all
on_unreadable = "raise"  # or "skip": another image takes its place, counted and listed

view = [
    dict(type="RandomResizedCrop", size=224, scale=(0.2, 1.0)),
    dict(
        type="ColorJitter",
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        prob=0.8,
    ),
    dict(type="RandomGrayscale", prob=0.2),
    dict(type="GaussianBlur", sigma_range=(0.1, 2.0), prob=0.5),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[view, view], augment_on=augment_on),
    dict(type="PackViews"),
]
eval_pipeline = [
    dict(type="DecodeImage"),
    dict(type="ResizeShort", size=256),
    dict(type="CenterCrop", size=224),
    dict(type="PackViews"),
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type=storage,
        root=data_root + "/train",
        pipeline=train_pipeline,
        on_error=on_unreadable,
    ),
)

knn_dataloader = dict(
    batch_size=256,
    num_workers=num_workers,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
default_hooks = dict(
    knn=dict(
        type="KNNHook",
        interval=10,
        k=200,
        temperature=0.1,
        bank_dataloader=dict(
            **knn_dataloader,
            dataset=dict(
                type=storage,
                root=data_root + "/train",
                labels="subfolders",
                pipeline=eval_pipeline,
                max_images=128_000,  # about 100 of each class
            ),
        ),
        query_dataloader=dict(
            **knn_dataloader,
            dataset=dict(
                type=storage,
                root=data_root + "/val",
                labels="subfolders",
                pipeline=eval_pipeline,
            ),
        ),
    ),
)
