"""TKC in the recipe of the official MoCo demo on CIFAR-10.

Not published. Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/tkc.py"]

interval = 1 if _base_.cpu else 10

model = dict(**_base_.tkc)
