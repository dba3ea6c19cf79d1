"""MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2003.04297).

Published linear probe: 67.5 top-1. Another number of GPUs: `--auto-scale-lr`.
"""

_base_ = "../_base_/datasets/imagenet.py"

max_epochs = 200
lr = 0.03  # for a batch of 256
tau_ins = 0.2
queue_len = 65536
momentum = 0.999  # share of the key encoder that each step keeps

model = dict(
    type="MoCo",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        non_blocking=True,
    ),
    backbone=dict(type="ResNet", depth=50, zero_init_residual=False),
    neck=dict(type="MoCoV2Neck", in_channels=2048, hid_channels=2048, out_channels=128),
    head=dict(type="QueueSoftmax", temperature=tau_ins),
    queue_len=queue_len,
    momentum=momentum,
    bn_splits=8,  # one GPU only: with a batch of 256, groups of 32 as on 8 GPUs
)

optim_wrapper = dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=256)
