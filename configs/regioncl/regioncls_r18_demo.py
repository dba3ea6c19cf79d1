"""RegionCL-S on the demo scenes: minutes on two CPU cores."""

_base_ = ["../simsiam/simsiam_r18_demo.py", "../_base_/models/regioncl.py"]

stride = 16

model = dict(type="RegionCLS", **_base_.regions)
