"""LC-loss on BYOL, ResNet-50, ImageNet, the recipe of `byol_r50_imagenet.py`.

A reconstruction, inspired by arXiv 2207.04398, whose recipe could not be read.
The paper's main model is on BYOL.
"""

_base_ = ["../byol/byol_r50_imagenet.py", "../_base_/models/lcloss.py"]

model = dict(terms=[dict(**_base_.lcloss, predictor_channels=_base_.hid_channels)])
