"""DINO on the demo scenes: minutes on two CPU cores; SCFS builds on it.

Two large crops and two small ones. The teacher's momentum and its temperature follow
lightly-train's rules for few images. Few prototypes suit so few images and steps: after
six epochs kNN had risen by 10 points with 64 of them, after five by 1.5 with 1024.
"""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/dino.py"]

local_crops = 2
hid_channels = 512
head_norm = True
out_channels = 128
num_prototypes = 64
momentum = 0.99
sharp_start = 0.02
sharp_end = 0.02
frozen_epochs = 0.5

model = dict(
    **_base_.dino,
    neck=dict(**_base_.head, in_channels=_base_.backbone_channels),
    pairs=dict(locals=_base_.local_crops),
)
custom_hooks = [_base_.clip_each]
default_hooks = dict(knn=_base_.of_teacher)
