"""DenseCL on the demo scenes: minutes on two CPU cores."""

_base_ = "../mocov2/mocov2_r18_demo.py"

loss_lambda = 0.5  # share of the dense loss ...
start_iters = 100  # ... which is 0 before this iteration, 2 epochs of 30
num_grid = None  # side of the dense grid; None: that of the feature map, 4

model = dict(
    type="DenseCL",
    loss_lambda=dict(kind="step", start=0, end=loss_lambda, until=start_iters),
    neck=dict(
        _delete_=True,
        type="DenseCLNeck",
        in_channels=256,
        hid_channels=256,
        out_channels=128,
        num_grid=num_grid,
    ),
)
