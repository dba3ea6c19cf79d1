"""A linear classifier on the backbone, trained on a folder in ImageNet's layout.

The rate falls at 60 % and at 80 % of the epochs.
"""

_base_ = "folder.py"
from mmssl_ext.backbones import network

resnet = network(_base_.backbone, "resnet")  # other backbones are refused

batch_size = 32  # per GPU
test_batch_size = 128
max_epochs = 100
val_interval = 10
lr = 30  # for 256 images
weight_decay = 0
lr_step = 0.1  # what the rate is multiplied by

model = dict(
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=_base_.num_classes,
        in_channels=_base_.backbone_channels,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)

train_pipeline = [
    _base_.decoder,
    dict(type="RandomResizedCrop", size=_base_.image_size, scale=(0.08, 1.0)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackViews"),
]
persistent = dict(persistent_workers=_base_.num_workers > 0)
train_dataloader = dict(
    **{**_base_.loader, "sampler": dict(type="DefaultSampler", shuffle=True)},
    **persistent,
    batch_size=batch_size,
    pin_memory=True,
    drop_last=False,  # a few labels: use all of them
    dataset=dict(**_base_.labelled, root=_base_.train_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    **_base_.loader,
    **persistent,
    batch_size=test_batch_size,
    dataset=dict(
        **_base_.labelled, root=_base_.test_root, pipeline=_base_.test_pipeline
    ),
)
val_evaluator = dict(type="Accuracy", topk=_base_.topk)
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=weight_decay)
)
param_scheduler = [
    dict(
        type="MultiStepLR",
        by_epoch=True,
        milestones=[round(0.6 * max_epochs), round(0.8 * max_epochs)],
        gamma=lr_step,
    )
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=val_interval)
default_hooks = dict(
    checkpoint=dict(interval=val_interval),
    result=dict(metrics={f"top{k}": f"accuracy/top{k}" for k in _base_.topk}),
)
auto_scale_lr = dict(base_batch_size=256)
