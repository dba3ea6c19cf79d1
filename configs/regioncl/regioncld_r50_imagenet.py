"""RegionCL-D on DenseCL, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 128 images.

Published: linear probe 68.5 top-1, COCO Mask R-CNN C4 1x 40.3 box AP. The official code
was not read: batch and rate are those of RegionCL-M, the loss that of an independent
implementation, and DenseCL's start of lambda, here after 2,500 larger steps, is kept;
all three are unverified.
"""

_base_ = ["../densecl/densecl_r50_imagenet.py", "../_base_/models/regioncl.py"]

cells = (3, 5)  # of 7: regions of 96, 128 or 160 of 224 px
batch_size = 128  # per GPU
lr = 0.15
lr_batch = 1024
start_iters = 2500

model = dict(type="RegionCLD", **_base_.regions)
