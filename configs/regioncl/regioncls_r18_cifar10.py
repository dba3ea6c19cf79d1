"""RegionCL-S on CIFAR-10, the recipe of `simsiam_r18_cifar10.py`; not published."""

_base_ = ["../simsiam/simsiam_r18_cifar10.py", "../_base_/models/regioncl.py"]

stride = 8

model = dict(type="RegionCLS", **_base_.regions)
