"""ASCL on the demo scenes: minutes on two CPU cores.

Differs from `mocov2_r18_demo.py` by the label and by the key's view, which is cropped
and mirrored alone.
"""

_base_ = ["../mocov2/mocov2_r18_demo.py", "../_base_/models/ascl.py"]

weak_target = True

model = dict(**_base_.ascl)
