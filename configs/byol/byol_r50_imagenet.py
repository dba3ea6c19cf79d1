"""BYOL, ResNet-50, ImageNet, 300 epochs, 8 GPUs x 512 images (arXiv 2006.07733).

The official code's recipe for 300 epochs. `max_epochs=200` is mmpretrain's, published
linear probe: 71.8 top-1. Fewer images on a GPU: more GPUs, or
`optim_wrapper.accumulative_counts`; each step of the optimizer needs 4096.
"""

_base_ = "../_base_/datasets/imagenet.py"

max_epochs = 300
warmup_epochs = 10
batch_size = 512  # per GPU
lr = 4.8  # for a batch of 4096: 0.3 for 256
momentum = 0.99  # share of the target that each step keeps, at first; at the end all
sync_bn = "torch"  # statistics of all GPUs

projector = dict(
    type="NonLinearNeck",
    in_channels=2048,
    hid_channels=4096,
    out_channels=256,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
)
predictor = dict(
    type="NonLinearNeck",
    in_channels=256,
    hid_channels=4096,
    out_channels=256,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
    with_avg_pool=False,
)
model = dict(
    type="BYOL",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        non_blocking=True,
    ),
    backbone=dict(type="ResNet", depth=50, zero_init_residual=False),
    neck=projector,
    predictor=predictor,
    momentum=dict(kind="cosine", start=momentum, end=1.0),
)

color = [
    dict(type="RandomResizedCrop", size=224, scale=(0.08, 1.0)),
    dict(
        type="ColorJitter",
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        prob=0.8,
    ),
    dict(type="RandomGrayscale", prob=0.2),
]
flip = dict(type="RandomFlip", prob=0.5)
first = [*color, dict(type="GaussianBlur", sigma_range=(0.1, 2.0), prob=1.0), flip]
second = [
    *color,
    dict(type="GaussianBlur", sigma_range=(0.1, 2.0), prob=0.1),
    dict(type="RandomSolarize", threshold=128, prob=0.2),
    flip,
]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[first, second], augment_on=_base_.augment_on),
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
