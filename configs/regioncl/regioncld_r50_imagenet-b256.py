"""RegionCL-D, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images, rate 0.03.

The recipe of an independent implementation: linear probe 67.5 top-1 (the paper: 68.5),
VOC detection 58.72 AP. Its rate is 0.006, 0.012, ..., 0.03 in the first 5 epochs, then
falls along a cosine; lambda is 0.5 from the first step.
"""

_base_ = "regioncld_r50_imagenet.py"

batch_size = 32  # per GPU
lr = 0.03
lr_batch = 256
lr_warmup = 5
lr_warmup_start = 1 / 5
lr_warmup_unit = "epoch"
start_iters = 0
