"""LC-loss on BYOL, CIFAR-10, the recipe of `byol_r18_cifar10.py`.

Not published. With 4 x 4 cells of 32 px it is a check of the method, not its use.
Minutes on CPU cores: `cpu=True`.
"""

_base_ = ["../byol/byol_r18_cifar10.py", "../_base_/models/lcloss.py"]

model = dict(terms=[dict(**_base_.lcloss, predictor_channels=_base_.hid_channels)])
