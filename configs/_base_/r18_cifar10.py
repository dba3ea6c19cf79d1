"""ResNet-18 with the CIFAR stem on CIFAR-10, one GPU x 512 images: the MoCo demo's.

`--cfg-options cpu=True` shortens every method for CPU cores: a quarter of the width,
earlier strides (the last stage still has 4 x 4 cells), batches of 256, four epochs of
SGD without a warm-up. Its figures compare with nothing but the untrained network and
the same recipe of other methods.
"""

_base_ = ["datasets/cifar10.py", "schedule.py"]

cpu = False
cpu_epochs = 4
max_epochs = cpu_epochs if cpu else 200
batch_size = 256 if cpu else 512
num_workers = 1 if cpu else 4
lr_batch = 512
base_channels = 16 if cpu else 64  # channels of the first stage
strides = (2, 2, 2, 1) if cpu else (1, 2, 2, 2)
backbone_channels = 8 * base_channels  # of the last stage

model = dict(
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        **_base_.read_as,
        non_blocking=True,
    ),
    backbone=dict(
        type="ResNet_CIFAR",
        depth=18,
        stem_channels=base_channels,
        base_channels=base_channels,
        strides=strides,
        zero_init_residual=False,
    ),
)
train_dataloader = dict(pin_memory=not cpu)
optim_wrapper = _base_.optimization
knn = dict(num_workers=0) if cpu else {}
default_hooks = dict(
    checkpoint=dict(interval=2 if cpu else 10),
    knn=dict(interval=2 if cpu else 5, bank_dataloader=knn, query_dataloader=knn),
)
