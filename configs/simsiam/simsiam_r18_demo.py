"""SimSiam on the demo scenes: minutes on two CPU cores.

The backbone is that of `mocov2_r18_demo.py`, projector and predictor are small.
"""

_base_ = "../_base_/datasets/demo.py"

max_epochs = 30
lr = 0.06  # for a batch of 64; the predictor keeps it
sync_bn = "torch"  # statistics of all GPUs

projector = dict(
    type="NonLinearNeck",
    in_channels=256,
    hid_channels=256,
    out_channels=256,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_last_bn_affine=False,
)
predictor = dict(
    type="NonLinearNeck",
    in_channels=256,
    hid_channels=64,
    out_channels=256,
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
    backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        strides=(1, 2, 2, 1),  # 4 x 4 cells of 16 px
        zero_init_residual=False,
    ),
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
auto_scale_lr = dict(base_batch_size=64)
