"""LC-loss on MoCo v2, on the demo scenes: minutes on two CPU cores.

The views are larger than those of other methods, for 7 x 7 cells.
"""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/lcloss.py"]

image_size = 112

model = dict(terms=[_base_.lcloss])
