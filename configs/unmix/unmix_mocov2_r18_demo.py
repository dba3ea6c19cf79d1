"""Un-Mix on MoCo, on the demo scenes: minutes on two CPU cores."""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/unmix.py"]

model = dict(terms=[_base_.unmix])
