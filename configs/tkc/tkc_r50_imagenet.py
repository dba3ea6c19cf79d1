"""TKC on MoCo v2, ResNet-50, ImageNet, 200 epochs, 8 GPUs x 32 images.

Inspired by arXiv 2108.10668, of which no setting could be read: the recipe is MoCo
v2's, and teachers, intervals and weights are ours.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/tkc.py"]

model = dict(**_base_.tkc)
