"""DenseCL on CIFAR-10 in the recipe of the official MoCo demo; no published figure.

Dense learning on 32 px is a check of the method, not its use: expect a kNN below
MoCo's.
"""

_base_ = "../mocov2/mocov2_r18_cifar10.py"

loss_lambda = 0.5  # share of the dense loss ...
start_iters = 200  # ... which is 0 before this iteration, 2 epochs of 200
num_grid = None  # side of the dense grid; None: that of the feature map, 4

model = dict(
    type="DenseCL",
    loss_lambda=dict(kind="step", start=0, end=loss_lambda, until=start_iters),
    neck=dict(
        _delete_=True,
        type="DenseCLNeck",
        in_channels=512,
        hid_channels=512,
        out_channels=128,
        num_grid=num_grid,
    ),
)
