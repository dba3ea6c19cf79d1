"""Un-Mix on BYOL, ResNet-50, ImageNet, the recipe of `byol_r50_imagenet.py`.

Not published.
"""

_base_ = ["../byol/byol_r50_imagenet.py", "../_base_/models/unmix.py"]

model = dict(terms=[_base_.unmix])
