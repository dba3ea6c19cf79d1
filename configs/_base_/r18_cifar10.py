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
depth = 18
base_channels = 16 if cpu else 64  # channels of the first stage
strides = (2, 2, 2, 1) if cpu else (1, 2, 2, 2)  # of a ResNet
cifar = dict(type="ResNet_CIFAR", strides=strides) if _base_.net.is_resnet else {}

model = dict(
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        **_base_.read_as,
        non_blocking=True,
    ),
    backbone=dict(_base_.net.backbone, **cifar),
)
train_dataloader = dict(pin_memory=not cpu)
optim_wrapper = _base_.optimization
knn = dict(num_workers=0) if cpu else {}
default_hooks = dict(
    checkpoint=dict(interval=2 if cpu else 10),
    knn=dict(interval=2 if cpu else 5, bank_dataloader=knn, query_dataloader=knn),
)
