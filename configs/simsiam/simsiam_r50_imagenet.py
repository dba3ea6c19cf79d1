"""SimSiam, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2011.10566).

Published linear probe: 70.0 top-1. The sizes of projector and predictor and the
predictor's constant rate are those of the official code.
"""

_base_ = "../_base_/datasets/imagenet.py"

max_epochs = 200
lr = 0.05  # for a batch of 256; the predictor keeps it
sync_bn = "torch"  # statistics of all GPUs

projector = dict(
    type="NonLinearNeck",
    in_channels=2048,
    hid_channels=2048,
    out_channels=2048,
    num_layers=3,
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
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        non_blocking=True,
    ),
    backbone=dict(type="ResNet", depth=50, zero_init_residual=True),
    neck=projector,
    predictor=predictor,
)

optim_wrapper = dict(
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={"predictor": dict(fix_lr=True)}),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
custom_hooks = [dict(type="FixedRateHook")]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=256)
