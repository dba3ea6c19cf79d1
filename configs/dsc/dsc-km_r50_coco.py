"""DSC with k-means, COCO without labels, the recipe of `densecl_r50_coco.py`.

A reconstruction, inspired by arXiv 2109.07756, whose recipe is not known.
"""

_base_ = ["../densecl/densecl_r50_coco.py", "../_base_/models/dsc.py"]

num_classes = 2048
semantic_start = 80

model = dict(**_base_.dsc, semantic=_base_.clusters)
