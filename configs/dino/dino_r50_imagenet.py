"""DINO, ResNet-50, ImageNet, 100 epochs, 8 GPUs x 64 images (arXiv 2104.14294).

The official code's recipe for a ResNet-50 of one machine, 2 x 224 and 8 x 96 pixels.
Without small crops, `local_crops=0`, large ones are cut from (0.14, 1.0) as well.
"""

_base_ = ["../_base_/r50_imagenet.py", "../_base_/models/dino.py"]

max_epochs = 100
lr = 0.06  # for a batch of 512: 0.03 for 256
lr_batch = 512
lr_warmup = 10
lr_end = 1e-6 / lr  # share
batch_size = 64  # per GPU
crop_scale = (0.14, 1.0)
local_crops = 8
three_recipes = True
interpolation = "bicubic"
jitter = (0.4, 0.4, 0.2, 0.1)
sync_bn = "torch"  # statistics of all GPUs

model = dict(
    **_base_.dino,
    neck=dict(**_base_.head, in_channels=_base_.backbone_channels),
    pairs=dict(locals=_base_.local_crops),
)
optim_wrapper = dict(paramwise_cfg=_base_.spared)
custom_hooks = [_base_.clip_each]
default_hooks = dict(knn=_base_.of_teacher)
