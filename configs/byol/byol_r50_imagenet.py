"""BYOL, ResNet-50, ImageNet, 300 epochs, 8 GPUs x 512 images (arXiv 2006.07733).

The official code's recipe for 300 epochs. `max_epochs=200` is mmpretrain's, published
linear probe: 71.8 top-1. Fewer images on a GPU: more GPUs, or
`optim_wrapper.accumulative_counts`; each step of the optimizer needs 4096.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/byol.py"]

max_epochs = 300
lars = True
lr = 4.8  # for a batch of 4096: 0.3 for 256
lr_batch = 4096
lr_warmup = 10
weight_decay = 1e-6
batch_size = 512  # per GPU
crop_scale = (0.08, 1.0)
jitter = (0.4, 0.4, 0.2, 0.1)
three_recipes = True

model = dict(
    **_base_.byol,
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
