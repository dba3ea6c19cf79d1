"""DenseCL on CIFAR-10, shortened for CPU cores like `mocov2_r18_cifar10-cpu.py`."""

_base_ = "../mocov2/mocov2_r18_cifar10-cpu.py"

loss_lambda = 0.5  # share of the dense loss ...
start_iters = 100  # ... which is 0 before this iteration, half an epoch
num_grid = None  # side of the dense grid; None: that of the feature map, 4

model = dict(
    type="DenseCL",
    loss_lambda=dict(kind="step", start=0, end=loss_lambda, until=start_iters),
    neck=dict(
        _delete_=True,
        type="DenseCLNeck",
        in_channels=128,
        hid_channels=128,
        out_channels=128,
        num_grid=num_grid,
    ),
)
