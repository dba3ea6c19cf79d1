"""CIFAR-10 in the recipe of the official MoCo demo.

Set the environment variable CIFAR10_ROOT, or edit `data_root`: the folder that holds
`cifar-10-batches-py/`. With `download = True` it is fetched there if absent.
From memory, unverified: the crop scale, the absence of blur and the normalisation.
"""

_base_ = "../default_runtime.py"

data_root = "{{$CIFAR10_ROOT:data/cifar10}}"
download = False
verify_md5 = True  # False for a re-packed copy of the same pixels
batch_size = 512
num_workers = 4
augment_on = "device"  # only decode and crop on the loader's CPU cores; "worker": all

mean = [125.307, 122.961, 113.8575]
std = [51.5865, 50.847, 51.255]

view = [
    dict(type="RandomResizedCrop", size=32, scale=(0.08, 1.0)),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="ColorJitter",
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        prob=0.8,
    ),
    dict(type="RandomGrayscale", prob=0.2),
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[view, view], augment_on=augment_on),
    dict(type="PackViews"),
]
eval_pipeline = [dict(type="DecodeImage"), dict(type="PackViews")]

cifar10 = dict(type="CIFAR10", root=data_root, download=download, verify_md5=verify_md5)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="default_collate"),
    dataset=dict(**cifar10, split="train", pipeline=train_pipeline),
)

knn_dataloader = dict(
    batch_size=512,
    num_workers=num_workers,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="default_collate"),
)
default_hooks = dict(
    knn=dict(
        type="KNNHook",
        interval=5,
        k=200,
        temperature=0.1,
        bank_dataloader=dict(
            **knn_dataloader,
            dataset=dict(**cifar10, split="train", pipeline=eval_pipeline),
        ),
        query_dataloader=dict(
            **knn_dataloader,
            dataset=dict(**cifar10, split="test", pipeline=eval_pipeline),
        ),
    ),
)
