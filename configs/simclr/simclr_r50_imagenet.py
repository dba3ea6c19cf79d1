"""SimCLR, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 512 images (arXiv 2002.05709).

mmpretrain's recipe, published linear probe: 66.9 top-1. The negatives are as many as
the batch of all GPUs is large; gradients accumulated over smaller ones do not replace
it.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/simclr.py"]

lars = True
lr = 4.8  # for a batch of 4096: 0.3 for 256
lr_batch = 4096
lr_warmup = 10
weight_decay = 1e-6
batch_size = 512  # per GPU
temperature = 0.1
crop_scale = (0.08, 1.0)
jitter = (0.8, 0.8, 0.8, 0.2)

model = dict(
    **_base_.simclr,
    backbone=dict(zero_init_residual=True),
    neck=dict(
        **_base_.projector,
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
    ),
)
