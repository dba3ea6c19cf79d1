"""DenseSiam on the demo scenes, 7 x 7 cells: minutes on two CPU cores."""

_base_ = ["../simsiam/simsiam_r18_demo.py", "../_base_/models/densesiam.py"]

image_size = 112
num_regions = 16
region_channels = 64

model = dict(**_base_.densesiam)
