"""RegionCL-D on the demo scenes: minutes on two CPU cores."""

_base_ = ["../densecl/densecl_r18_demo.py", "../_base_/models/regioncl.py"]

stride = 16

model = dict(type="RegionCLD", **_base_.regions)
