"""Un-Mix on BYOL, on the demo scenes: minutes on two CPU cores."""

_base_ = ["../byol/byol_r18_demo.py", "../_base_/models/unmix.py"]

model = dict(terms=[_base_.unmix])
