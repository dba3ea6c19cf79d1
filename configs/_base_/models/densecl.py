"""DenseCL on MoCo: the neck of a dense embedding, and the share of its loss."""

loss_lambda = 0.5  # share of the dense loss ...
start_iters = 100  # ... which is 0 before this iteration
num_grid = None  # side of the dense grid; None: that of the feature map

densecl = dict(
    type="DenseCL",
    loss_lambda=dict(kind="step", start=0, end=loss_lambda, until=start_iters),
)
dense_neck = dict(  # and `in_channels` and `hid_channels`, those of the backbone
    type="DenseCLNeck", out_channels=128, num_grid=num_grid
)
