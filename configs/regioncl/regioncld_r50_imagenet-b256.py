"""RegionCL-D, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images, rate 0.03.

The recipe of an independent implementation: linear probe 67.5 top-1 (the paper: 68.5),
VOC detection 58.72 AP. Its rate is 0.006, 0.012, ..., 0.03 in the first 5 epochs, then
falls along a cosine; lambda is 0.5 from the first step.
"""

_base_ = "../densecl/densecl_r50_imagenet.py"

cells = (3, 5)  # sides of a region, of 7 cells: 96, 128 or 160 of 224 px
stride = 32  # pixels per cell, of the last stage
region_weight = 1.0
start_iters = 0  # lambda is never 0
warmup_epochs = 5
max_epochs = 200

model = dict(
    type="RegionCLD",
    loss_lambda=dict(until=start_iters),
    region=dict(cells=cells, stride=stride),
    region_weight=region_weight,
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1 / warmup_epochs,
        by_epoch=True,
        end=warmup_epochs,
    ),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs - warmup_epochs,
        by_epoch=True,
        begin=warmup_epochs,
        end=max_epochs,
    ),
]
