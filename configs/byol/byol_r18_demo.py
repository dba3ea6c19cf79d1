"""BYOL on the demo scenes: minutes on two CPU cores.

The backbone is that of `mocov2_r18_demo.py`, projector and predictor are small; SGD,
and the views of the other methods, two alike.
"""

_base_ = "../_base_/datasets/demo.py"

max_epochs = 30
lr = 0.06  # for a batch of 64
momentum = 0.99  # share of the target that each step keeps, at first; at the end all
sync_bn = "torch"  # statistics of all GPUs

projector = dict(
    type="NonLinearNeck",
    in_channels=256,
    hid_channels=512,
    out_channels=128,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
)
predictor = dict(
    type="NonLinearNeck",
    in_channels=128,
    hid_channels=512,
    out_channels=128,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
    with_avg_pool=False,
)
model = dict(
    type="BYOL",
    data_preprocessor=dict(
        type="MultiViewPreprocessor", mean=_base_.mean, std=_base_.std
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
    momentum=dict(kind="cosine", start=momentum, end=1.0),
)

optim_wrapper = dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=64)
