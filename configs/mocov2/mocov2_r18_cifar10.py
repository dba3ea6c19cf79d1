"""MoCo, ResNet-18 with the CIFAR stem, CIFAR-10, 200 epochs, one GPU x 512 images.

The recipe of the official MoCo demo, not symmetric. Published kNN (k=200, t=0.1):
82.6 top-1. From memory, unverified: the linear neck, and that kNN was measured on the
embedding; both figures are logged.
"""

_base_ = "../_base_/datasets/cifar10.py"

max_epochs = 200
lr = 0.06  # for a batch of 512
tau_ins = 0.1
queue_len = 4096
momentum = 0.99  # share of the key encoder that each step keeps

model = dict(
    type="MoCo",
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        non_blocking=True,
    ),
    backbone=dict(type="ResNet_CIFAR", depth=18, zero_init_residual=False),
    neck=dict(
        type="LinearNeck", in_channels=512, out_channels=128, gap_dim=2, norm_cfg=None
    ),
    head=dict(type="QueueSoftmax", temperature=tau_ins),
    queue_len=queue_len,
    momentum=momentum,
    bn_splits=8,  # groups of 64
)

optim_wrapper = dict(optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=512)
