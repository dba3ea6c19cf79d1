"""LC-loss on MoCo v2, ResNet-50, ImageNet, the recipe of `mocov2_r50_imagenet.py`.

A reconstruction, inspired by arXiv 2207.04398, whose recipe could not be read.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/lcloss.py"]

model = dict(terms=[_base_.lcloss])
