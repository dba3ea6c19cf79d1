"""BYOL on CIFAR-10, shortened for CPU cores like `mocov2_r18_cifar10-cpu.py`.

Differs from `byol_r18_cifar10.py`: the backbone of that file, a quarter as wide; hidden
layers of 512; SGD without a warm-up, since four epochs are too few for LARS. Its
figures compare with nothing but the untrained network and short runs of other methods.
"""

_base_ = "byol_r18_cifar10.py"

max_epochs = 4
lr = 0.2  # of 0.06, which is MoCo's, and this the better one after an epoch
hid_channels = 512
num_workers = 1

model = dict(
    backbone=dict(stem_channels=16, base_channels=16, strides=(2, 2, 2, 1)),
    neck=dict(in_channels=128, hid_channels=hid_channels),
    predictor=dict(hid_channels=hid_channels),
)
train_dataloader = dict(num_workers=num_workers, pin_memory=False)
default_hooks = dict(
    checkpoint=dict(interval=2),
    knn=dict(
        interval=2,
        bank_dataloader=dict(num_workers=0),
        query_dataloader=dict(num_workers=0),
    ),
)
optim_wrapper = dict(
    _delete_=True,
    optimizer=dict(type="SGD", lr=lr, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=max_epochs, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs)
