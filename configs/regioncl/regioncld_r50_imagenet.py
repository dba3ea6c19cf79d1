"""RegionCL-D on DenseCL, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 128 images.

Published: linear probe 68.5 top-1, COCO Mask R-CNN C4 1x 40.3 box AP. The official code
was not read: batch and rate are those of RegionCL-M, the loss that of an independent
implementation, and DenseCL's start of lambda, here after 2,500 larger steps, is kept;
all three are unverified.
"""

_base_ = "../densecl/densecl_r50_imagenet.py"

cells = (3, 5)  # sides of a region, of 7 cells: 96, 128 or 160 of 224 px
stride = 32  # pixels per cell, of the last stage
region_weight = 1.0
batch_size = 128  # per GPU
lr = 0.15  # for a batch of 1024
start_iters = 2500  # lambda is 0 before this iteration

model = dict(
    type="RegionCLD",
    loss_lambda=dict(until=start_iters),
    region=dict(cells=cells, stride=stride),
    region_weight=region_weight,
)
train_dataloader = dict(batch_size=batch_size)
optim_wrapper = dict(optimizer=dict(lr=lr))
auto_scale_lr = dict(base_batch_size=1024)
