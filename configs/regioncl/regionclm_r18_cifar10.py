"""RegionCL-M on CIFAR-10, the recipe of `mocov2_r18_cifar10.py`; not published.

Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/regioncl.py"]

stride = 8

model = dict(type="RegionCLM", **_base_.regions)
