"""RegionCL-S on CIFAR-10, the recipe of `simsiam_r18_cifar10.py`; not published."""

_base_ = "../simsiam/simsiam_r18_cifar10.py"

cells = (2, 3)  # sides of a region, of 4 cells
stride = 8  # pixels per cell, of the last stage
region_weight = 1.0

model = dict(
    type="RegionCLS",
    region=dict(cells=cells, stride=stride),
    region_weight=region_weight,
)
