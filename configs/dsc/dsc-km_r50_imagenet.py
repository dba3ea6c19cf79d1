"""DSC with k-means, ImageNet, the recipe of `densecl_r50_imagenet.py`.

A reconstruction, inspired by arXiv 2109.07756, whose recipe is not known.
"""

_base_ = ["../densecl/densecl_r50_imagenet.py", "../_base_/models/dsc.py"]

num_classes = 2048

model = dict(**_base_.dsc, semantic=_base_.clusters)
