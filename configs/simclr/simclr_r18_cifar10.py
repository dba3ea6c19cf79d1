"""SimCLR, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, one GPU x 512 images.

The official command's recipe, published linear probe: about 91 top-1. Its jitter is
half as strong as on ImageNet and there is no blur, which makes the views of
`_base_/datasets/cifar10.py`.
"""

_base_ = "../_base_/datasets/cifar10.py"

max_epochs = 1000
warmup_epochs = 10
lr = 2.0  # for a batch of 512: 1.0 for 256
temperature = 0.5
sync_bn = "torch"  # statistics of all GPUs, or they tell which views belong together

model = dict(
    type="SimCLR",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        non_blocking=True,
    ),
    backbone=dict(type="ResNet_CIFAR", depth=18, zero_init_residual=True),
    neck=dict(
        type="NonLinearNeck",
        in_channels=512,
        hid_channels=512,
        out_channels=128,
        num_layers=2,
        norm_cfg=dict(type="BN1d"),
    ),
    temperature=temperature,
)

no_lars = dict(decay_mult=0, lars_exclude=True)
optim_wrapper = dict(
    optimizer=dict(type="LARS", lr=lr, momentum=0.9, weight_decay=1e-4, eta=1e-3),
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
auto_scale_lr = dict(base_batch_size=512)
