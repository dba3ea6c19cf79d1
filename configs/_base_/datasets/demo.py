"""The demo scenes: two views for pretraining, whole scenes for kNN.

`make demo` draws them into data/demo or DEMO_ROOT. The recipe follows that of CIFAR-10,
for speed; the crops are larger, since the objects fill only a part of a scene.
"""

_base_ = "../default_runtime.py"

data_root = "{{$DEMO_ROOT:data/demo}}/imagenet"
batch_size = 64
num_workers = 1
augment_on = "worker"  # all on the loader's CPU cores; "device": only decode and crop
image_size = 64
mean = [123.675, 116.28, 103.53]
std = [58.395, 57.12, 57.375]

view = [
    dict(type="RandomResizedCrop", size=image_size, scale=(0.4, 1.0)),
    dict(
        type="ColorJitter",
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        prob=0.8,
    ),
    dict(type="RandomGrayscale", prob=0.2),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[view, view], augment_on=augment_on),
    dict(type="PackViews"),
]
eval_pipeline = [
    dict(type="DecodeImage"),
    dict(type="ResizeShort", size=image_size),
    dict(type="CenterCrop", size=image_size),  # your own images differ in shape
    dict(type="PackViews"),
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(
        type="ImageFolder", root=data_root + "/train", pipeline=train_pipeline
    ),
)
knn_dataloader = dict(
    batch_size=256,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
labelled = dict(type="ImageFolder", labels="subfolders", pipeline=eval_pipeline)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=10),
    collapse=dict(interval=20),
    knn=dict(
        type="KNNHook",
        interval=5,
        k=20,
        temperature=0.1,
        bank_dataloader=dict(
            **knn_dataloader, dataset=dict(**labelled, root=data_root + "/train")
        ),
        query_dataloader=dict(
            **knn_dataloader, dataset=dict(**labelled, root=data_root + "/test")
        ),
    ),
)
