"""DSC with k-means on the demo scenes, 7 x 7 cells: minutes on two CPU cores."""

_base_ = ["../densecl/densecl_r18_demo.py", "../_base_/models/dsc.py"]

image_size = 112
num_classes = 64
semantic_start = 3
num_kept = 2048  # below the 3,000 scenes, of which each gives one

model = dict(**_base_.dsc, semantic=_base_.clusters)
