"""DenseSiam on CIFAR-10, the recipe of `simsiam_r18_cifar10.py`; not published.

Dense learning on 32 px is a check of the method, not its use.
"""

_base_ = ["../simsiam/simsiam_r18_cifar10.py", "../_base_/models/densesiam.py"]

num_points = 4  # as many as cells
num_regions = 16
region_channels = 128

model = dict(**_base_.densesiam)
