"""DenseSiam, ResNet-50, ImageNet, the recipe of `simsiam_r50_imagenet.py`.

A reconstruction, inspired by arXiv 2203.11075, whose recipe could not be read.
Published: mask AP 36.8 of Mask R-CNN 1x on COCO.
"""

_base_ = ["../simsiam/simsiam_r50_imagenet.py", "../_base_/models/densesiam.py"]

model = dict(**_base_.densesiam)
