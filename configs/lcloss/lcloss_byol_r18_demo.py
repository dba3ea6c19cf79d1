"""LC-loss on BYOL, on the demo scenes: minutes on two CPU cores.

The views are larger than those of other methods, for 7 x 7 cells.
"""

_base_ = ["../byol/byol_r18_demo.py", "../_base_/models/lcloss.py"]

image_size = 112

model = dict(terms=[dict(**_base_.lcloss, predictor_channels=_base_.hid_channels)])
