"""SimCLR on the demo scenes: minutes on two CPU cores.

The backbone is that of `mocov2_r18_demo.py`; SGD, and the views of the other methods.
"""

_base_ = "../_base_/datasets/demo.py"

max_epochs = 30
lr = 0.06  # for a batch of 64
temperature = 0.2
sync_bn = "torch"  # statistics of all GPUs, or they tell which views belong together

model = dict(
    type="SimCLR",
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
    neck=dict(
        type="NonLinearNeck",
        in_channels=256,
        hid_channels=256,
        out_channels=128,
        num_layers=2,
        norm_cfg=dict(type="BN1d"),
    ),
    temperature=temperature,
)

optim_wrapper = dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=64)
