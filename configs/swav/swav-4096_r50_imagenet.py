"""SwAV, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 512 images (arXiv 2006.09882).

Published linear probe: 73.9 top-1; 72.1, 74.6 and 75.3 after 100, 400 and 800 epochs.
Without small crops, `local_crops=0 crop_scale="(0.08,1.0)"`, after 400: 70.1. The
official run has 64 GPUs x 64 images.
"""

_base_ = "swav_r50_imagenet.py"

lr = 4.8
lr_batch = 4096
lr_warmup = 10
lr_warmup_start = 1 / 16
batch_size = 512  # per GPU
queue_len = 0
