"""SimSiam, ResNet-18 with the CIFAR stem, CIFAR-10, one GPU x 512 images.

From memory, unverified: the recipe of the paper's CIFAR-10 experiment (800 epochs
there), projector of two layers, rate 0.03 at 256, which makes 0.06 here.
"""

_base_ = "../_base_/datasets/cifar10.py"

max_epochs = 200
lr = 0.06  # for a batch of 512; the predictor keeps it
sync_bn = "torch"  # statistics of all GPUs

projector = dict(
    type="NonLinearNeck",
    in_channels=512,
    hid_channels=2048,
    out_channels=2048,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_last_bn_affine=False,
)
predictor = dict(
    type="NonLinearNeck",
    in_channels=2048,
    hid_channels=512,
    out_channels=2048,
    norm_cfg=dict(type="BN1d"),
    with_avg_pool=False,
    with_last_bn=False,
    with_last_bias=True,
)
model = dict(
    type="SimSiam",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        non_blocking=True,
    ),
    backbone=dict(type="ResNet_CIFAR", depth=18, zero_init_residual=True),
    neck=projector,
    predictor=predictor,
)

optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys={"predictor": dict(fix_lr=True)}),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
custom_hooks = [dict(type="FixedRateHook")]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=512)
