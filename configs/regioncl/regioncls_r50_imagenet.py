"""RegionCL-S on SimSiam, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images.

Published: linear probe 71.3 top-1 (SimSiam: 70.0). No source of the method's details
was found: the region loss is our reading, the recipe SimSiam's; both are unverified.
"""

_base_ = ["../simsiam/simsiam_r50_imagenet.py", "../_base_/models/regioncl.py"]

cells = (3, 5)  # of 7: regions of 96, 128 or 160 of 224 px

model = dict(type="RegionCLS", **_base_.regions)
