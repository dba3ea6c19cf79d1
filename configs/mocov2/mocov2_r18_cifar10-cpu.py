"""MoCo on CIFAR-10, shortened for CPU cores; what other methods build on.

Differs from `mocov2_r18_cifar10.py`: a quarter of the width, earlier strides (the last
stage still has 4 x 4 cells), batch 256 with 4 groups of BatchNorm, a few epochs. Its
figures compare with nothing but the untrained network and the same recipe of other
methods.
"""

_base_ = "mocov2_r18_cifar10.py"

max_epochs = 4
batch_size = 256
num_workers = 1

model = dict(
    backbone=dict(stem_channels=16, base_channels=16, strides=(2, 2, 2, 1)),
    neck=dict(in_channels=128),
    bn_splits=4,  # groups of 64
)
train_dataloader = dict(
    batch_size=batch_size, num_workers=num_workers, pin_memory=False
)
default_hooks = dict(
    checkpoint=dict(interval=2),
    knn=dict(
        interval=2,
        bank_dataloader=dict(num_workers=0),
        query_dataloader=dict(num_workers=0),
    ),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs)
