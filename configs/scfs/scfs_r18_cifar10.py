"""SCFS, ResNet-18 with the CIFAR stem, CIFAR-10, the recipe of `dino_r18_cifar10.py`.

No published figure. Heads have half of their ImageNet widths. Minutes on CPU cores:
`cpu=True`.
"""

_base_ = ["../dino/dino_r18_cifar10.py", "../_base_/models/scfs.py"]
from mmssl_ext.backbones import network

mid_channels = 32 if _base_.cpu else 128
stage_hidden = 128 if _base_.cpu else 1024

levels = network(_base_.backbone, "stages")  # a ViT has maps of one size
model = dict(**_base_.scfs, backbone=dict(out_indices=tuple(levels["levels"][1:])))
