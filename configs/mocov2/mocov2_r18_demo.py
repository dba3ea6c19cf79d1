"""MoCo on the demo scenes: minutes on two CPU cores, and what other methods build on.

A plain ResNet-18 of half the width, small batches and a short queue. The stem is the
usual 7x7 one, so that detectors and segmentors take the weights. The last stage keeps
its resolution, as segmentors let it: dense methods need more than 2 x 2 cells.
"""

_base_ = "../_base_/datasets/demo.py"

max_epochs = 30
lr = 0.06  # for a batch of 64
tau_ins = 0.1
queue_len = 1024  # well below the 3,000 scenes
momentum = 0.99  # share of the key encoder that each step keeps
strides = (1, 2, 2, 1)  # 4 x 4 cells of 16 px

model = dict(
    type="MoCo",
    data_preprocessor=dict(
        type="MultiViewPreprocessor", mean=_base_.mean, std=_base_.std
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        strides=strides,
        zero_init_residual=False,
    ),
    neck=dict(
        type="LinearNeck", in_channels=256, out_channels=128, gap_dim=2, norm_cfg=None
    ),
    head=dict(type="QueueSoftmax", temperature=tau_ins),
    queue_len=queue_len,
    momentum=momentum,
    bn_splits=2,  # groups of 32
)

optim_wrapper = dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=64)
