"""SwAV on the demo scenes: minutes on two CPU cores.

The projector is small, and few prototypes suit few images. The embeddings of an
untrained network are much alike, so that the usual epsilon of 0.05 gives codes without
contrast: in a trial of 120 steps the loss stayed at ln M with it, and fell with 0.02.
"""

_base_ = ["../_base_/r18_demo.py", "../_base_/models/swav.py"]

hid_channels = 512
out_channels = 128
num_prototypes = 64
lr = 0.2
epsilon = 0.02

model = dict(
    **_base_.swav,
    pairs=dict(locals=_base_.local_crops),
    neck=dict(
        **_base_.projector, **_base_.pooling, in_channels=_base_.backbone_channels
    ),
)
