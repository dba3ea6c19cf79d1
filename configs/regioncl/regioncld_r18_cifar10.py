"""RegionCL-D on CIFAR-10, the recipe of `densecl_r18_cifar10.py`; not published."""

_base_ = ["../densecl/densecl_r18_cifar10.py", "../_base_/models/regioncl.py"]

stride = 8

model = dict(type="RegionCLD", **_base_.regions)
