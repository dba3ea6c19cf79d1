"""RegionCL-S on SimSiam, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images.

Published: linear probe 71.3 top-1 (SimSiam: 70.0). No source of the method's details
was found: the region loss is our reading, the recipe SimSiam's; both are unverified.
"""

_base_ = "../simsiam/simsiam_r50_imagenet.py"

cells = (3, 5)  # sides of a region, of 7 cells: 96, 128 or 160 of 224 px
stride = 32  # pixels per cell, of the last stage
region_weight = 1.0

model = dict(
    type="RegionCLS",
    region=dict(cells=cells, stride=stride),
    region_weight=region_weight,
)
