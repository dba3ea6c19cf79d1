"""DSC with prototypes on the demo scenes, 7 x 7 cells: minutes on two CPU cores."""

_base_ = ["../densecl/densecl_r18_demo.py", "../_base_/models/dsc.py"]

image_size = 112
num_classes = 64
semantic_start = 3

model = dict(**_base_.dsc, semantic=_base_.prototypes)
