"""CO2 on CIFAR-10, shortened to about half an hour of two idle CPU cores.

Differs from `co2_r18_cifar10.py`: half the width, the first stage strided (1/16 of the
cost), batch 256 with 4 groups of BatchNorm, 12 epochs. Its figures compare with
nothing but the untrained network and runs of the same config.
"""

_base_ = "co2_r18_cifar10.py"

max_epochs = 12
batch_size = 256
num_workers = 1

model = dict(
    backbone=dict(stem_channels=32, base_channels=32, strides=(2, 2, 2, 2)),
    neck=dict(in_channels=256),
    bn_splits=4,
)
train_dataloader = dict(
    batch_size=batch_size, num_workers=num_workers, pin_memory=False
)
default_hooks = dict(
    checkpoint=dict(interval=2),
    knn=dict(
        interval=3,
        bank_dataloader=dict(num_workers=0),
        query_dataloader=dict(num_workers=0),
    ),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs)
