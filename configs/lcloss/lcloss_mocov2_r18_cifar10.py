"""LC-loss on MoCo v2, CIFAR-10, the recipe of `mocov2_r18_cifar10.py`.

Not published. With 4 x 4 cells of 32 px it is a check of the method, not its use.
Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../mocov2/mocov2_r18_cifar10.py", "../_base_/models/lcloss.py"]

model = dict(terms=[_base_.lcloss])
