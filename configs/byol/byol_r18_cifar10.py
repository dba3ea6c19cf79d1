"""BYOL, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, one GPU x 256 images.

Views, widths, weight decay and schedule are solo-learn's, published linear probe: 92.58
top-1. The rate is the official one for a ResNet-18 and this batch (Imagenette):
solo-learn's belongs to a LARS that clips its trust ratio, which mmpretrain's does not.
"""

_base_ = "../_base_/datasets/cifar10.py"

max_epochs = 1000
warmup_epochs = 10
batch_size = 256
lr = 2.0  # for a batch of 256
momentum = 0.99  # share of the target that each step keeps, at first; at the end all
sync_bn = "torch"  # statistics of all GPUs

projector = dict(
    type="NonLinearNeck",
    in_channels=512,
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
        mean=_base_.mean,
        std=_base_.std,
        non_blocking=True,
    ),
    backbone=dict(type="ResNet_CIFAR", depth=18, zero_init_residual=False),
    neck=projector,
    predictor=predictor,
    momentum=dict(kind="cosine", start=momentum, end=1.0),
)

first = [
    dict(type="RandomResizedCrop", size=32, scale=(0.08, 1.0)),
    dict(type="RandomFlip", prob=0.5),
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
second = [*first, dict(type="RandomSolarize", threshold=128, prob=0.2)]
train_pipeline = [
    dict(type="DecodeImage"),
    dict(type="MakeViews", views=[first, second], augment_on=_base_.augment_on),
    dict(type="PackViews"),
]
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))

no_lars = dict(decay_mult=0, lars_exclude=True)
optim_wrapper = dict(
    optimizer=dict(type="LARS", lr=lr, momentum=0.9, weight_decay=1e-5, eta=1e-3),
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
auto_scale_lr = dict(base_batch_size=256)
