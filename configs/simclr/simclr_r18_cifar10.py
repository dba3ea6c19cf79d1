"""SimCLR, ResNet-18 with the CIFAR stem, CIFAR-10, 1000 epochs, one GPU x 512 images.

The official command's recipe, published linear probe: about 91 top-1. Its jitter is
half as strong as on ImageNet and there is no blur, which makes the views of
`_base_/datasets/cifar10.py`. With `cpu=True` the optimizer is MoCo's SGD, since four
epochs are too few for LARS.
"""

_base_ = ["../_base_/r18_cifar10.py", "../_base_/models/simclr.py"]

lars = not _base_.cpu
max_epochs = _base_.cpu_epochs if _base_.cpu else 1000
lr = 0.06 if _base_.cpu else 2.0  # for a batch of 512: 1.0 for 256
lr_warmup = 0 if _base_.cpu else 10
weight_decay = 5e-4 if _base_.cpu else 1e-4
temperature = 0.5

model = dict(
    **_base_.simclr,
    backbone=dict(zero_init_residual=not _base_.cpu),
    neck=dict(
        **_base_.projector,
        **_base_.pooling,
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.backbone_channels,
    ),
)
