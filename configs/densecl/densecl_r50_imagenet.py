"""DenseCL, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2011.09157).

Published: linear probe 63.6 top-1 (MoCo v2: 67.5), VOC detection 58.7 AP (57.0), VOC
segmentation 69.4 mIoU (67.5). The weight of the dense loss starts at 0, as the author
says (10,000 iterations); the released configs left it out.
"""

_base_ = "../mocov2/mocov2_r50_imagenet.py"

loss_lambda = 0.5  # share of the dense loss ...
start_iters = 10_000  # ... which is 0 before this iteration
num_grid = None  # side of the dense grid; None: that of the feature map, 7

model = dict(
    type="DenseCL",
    loss_lambda=dict(kind="step", start=0, end=loss_lambda, until=start_iters),
    neck=dict(
        _delete_=True,
        type="DenseCLNeck",
        in_channels=2048,
        hid_channels=2048,
        out_channels=128,
        num_grid=num_grid,
        init_cfg=dict(
            type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="relu"
        ),
    ),
)
