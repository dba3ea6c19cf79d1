"""CO2 on the demo scenes: minutes on two CPU cores, to see everything work.

The first stage of `make demo`, which draws the scenes into data/demo or DEMO_ROOT. The
recipe follows that of CIFAR-10, for speed: a ResNet-18 of half the width, small batches
and a short queue. The stem is the usual 7x7 one, so that detectors and segmentors take
the weights, and the crops are larger, since the objects fill only a part of a scene.
"""

_base_ = "../_base_/default_runtime.py"

data_root = "{{$DEMO_ROOT:data/demo}}/imagenet"
max_epochs = 30
batch_size = 64
image_size = 64
lr = 0.06
alpha = 0.3  # weight of the consistency term
tau_con = 0.05
tau_ins = 0.1
queue_len = 1024  # well below the 3,000 scenes

model = dict(
    type="CO2",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        zero_init_residual=False,
    ),
    neck=dict(
        type="LinearNeck", in_channels=256, out_channels=128, gap_dim=2, norm_cfg=None
    ),
    head=dict(type="InstanceHead", temperature=tau_ins),
    consistency=dict(type="ConsistencyHead", temperature=tau_con, weight=alpha),
    feat_dim=128,
    queue_len=queue_len,
    momentum=0.99,
    bn_splits=2,  # groups of 32
)

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
    dict(type="MakeViews", views=[view, view]),
    dict(type="PackViews"),
]
eval_pipeline = [
    dict(type="DecodeImage"),
    dict(type="ResizeShort", size=image_size),
    dict(type="PackViews"),
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
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

optim_wrapper = dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=batch_size)
