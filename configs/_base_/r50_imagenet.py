"""ResNet-50 on ImageNet, 200 epochs, 8 GPUs x 32 images: MoCo v2's recipe.

What the methods build on; each says what it is and which of the variables differ.
"""

_base_ = ["datasets/imagenet.py", "schedule.py"]

lr = 0.03
weight_decay = 1e-4
depth = 50
base_channels = 64  # of the first stage
backbone_channels = base_channels * (32 if depth >= 50 else 8)  # of the last stage

model = dict(
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        **_base_.read_as,
        non_blocking=True,
    ),
    backbone=dict(
        type="ResNet",
        in_channels=_base_.in_channels,
        depth=depth,
        stem_channels=base_channels,
        base_channels=base_channels,
        zero_init_residual=False,
    ),
)
optim_wrapper = dict(
    _base_.optimization,
    # The runtime's `fused` is for the optimizers of torch.
    optimizer=dict(_base_.optimization["optimizer"], _delete_=_base_.lars),
)
