"""SimCLR, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 512 images (arXiv 2002.05709).

mmpretrain's recipe, published linear probe: 66.9 top-1. The negatives are as many as
the batch of all GPUs is large; gradients accumulated over smaller ones do not replace
it.
"""

_base_ = "../_base_/datasets/imagenet.py"

max_epochs = 200
warmup_epochs = 10
batch_size = 512  # per GPU
lr = 4.8  # for a batch of 4096: 0.3 for 256
temperature = 0.1
sync_bn = "torch"  # statistics of all GPUs, or they tell which views belong together

model = dict(
    type="SimCLR",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        non_blocking=True,
    ),
    backbone=dict(type="ResNet", depth=50, zero_init_residual=True),
    neck=dict(
        type="NonLinearNeck",
        in_channels=2048,
        hid_channels=2048,
        out_channels=128,
        num_layers=2,
        norm_cfg=dict(type="BN1d"),
    ),
    temperature=temperature,
)

view = [
    dict(type="RandomResizedCrop", size=224, scale=(0.08, 1.0)),
    dict(
        type="ColorJitter",
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        prob=0.8,
    ),
    dict(type="RandomGrayscale", prob=0.2),
    dict(type="GaussianBlur", sigma_range=(0.1, 2.0), prob=0.5),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[view, view], augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))

no_lars = dict(decay_mult=0, lars_exclude=True)
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type="LARS", lr=lr, momentum=0.9, weight_decay=1e-6, eta=1e-3
    ),
    # BatchNorm and biases; the BatchNorm of a shortcut is downsample.1
    paramwise_cfg=dict(
        custom_keys={"bn": no_lars, "bias": no_lars, "downsample.1": no_lars}
    ),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-4,
        by_epoch=True,
        end=warmup_epochs,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=4096)
