"""RegionCL-M on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/regioncl.py"]

stride = 16

model = dict(type="RegionCLM", **_base_.regions)
