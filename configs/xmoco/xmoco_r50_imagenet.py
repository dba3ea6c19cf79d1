"""Cross-similarity terms, inspired by XMoCo, on MoCo v2, ResNet-50, ImageNet.

The recipe is MoCo v2's: 200 epochs, 8 GPUs x 32 images. Of arXiv 2206.04676 only the
abstract could be read: terms, weights and warm-up are ours, and no figure is theirs.
"""

_base_ = ["../mocov2/mocov2_r50_imagenet.py", "../_base_/models/xmoco.py"]

model = dict(**_base_.xmoco)
