"""MIRA, ResNet-50, ImageNet, 400 epochs, 8 GPUs x 512 images (arXiv 2211.02284).

The official recipe with 2 x 224 + 6 x 96 crops. Published linear probe: 75.6 top-1;
74.1 after 800 epochs without small crops (`local_crops=0`).
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/mira.py"]

max_epochs = 400
lars = True
lr = 4.8  # for a batch of 4096: 0.3 for 256
lr_batch = 4096
lr_warmup = 10
lr_warmup_start = 1 / 16
weight_decay = 1e-6
batch_size = 512  # per GPU
local_crops = 6
crop_scale = (0.14, 1.0)
interpolation = "bicubic"
three_recipes = True
jitter = (0.4, 0.4, 0.2, 0.1)

model = dict(
    **_base_.mira,
    pairs=dict(locals=_base_.local_crops),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
