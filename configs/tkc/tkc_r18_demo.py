"""TKC on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/tkc.py"]

interval = 2

model = dict(**_base_.tkc)
