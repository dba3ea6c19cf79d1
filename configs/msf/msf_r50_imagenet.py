"""MSF, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images (arXiv 2105.07269).

The official code's recipe for the bank of 128,000 rows, 131 MB in half precision.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/msf.py"]

lr = 0.05
hid_channels = 2 * _base_.backbone_channels
out_channels = _base_.backbone_channels // 4
bn_splits = 4  # one GPU only: with a batch of 256, groups of 64 as on the paper's 4
weak_target = True

model = dict(
    **_base_.msf,
    neck=dict(
        **_base_.projector,
        **_base_.last_bias,
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
    ),
    bn_splits=bn_splits,
)
