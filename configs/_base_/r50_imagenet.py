"""ResNet-50 on ImageNet, 200 epochs, 8 GPUs x 32 images: MoCo v2's recipe.

What the methods build on; each says what it is and which of the variables differ.
"""

_base_ = ["datasets/imagenet.py", "schedule.py"]

lr = 0.03
weight_decay = 1e-4

model = dict(
    data_preprocessor=dict(
        type="MultiViewPreprocessor",
        mean=_base_.mean,
        std=_base_.std,
        **_base_.read_as,
        non_blocking=True,
    ),
    backbone=dict(_base_.net.backbone, **_base_.bands_in),
)
optim_wrapper = dict(
    _base_.optimization,
    # The runtime's `fused` is for the optimizers of torch.
    optimizer=dict(
        _base_.optimization["optimizer"], _delete_=_base_.lars and not _base_.uses_adamw
    ),
)
