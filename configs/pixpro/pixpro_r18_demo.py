"""PixPro on the demo scenes: minutes on two CPU cores.

Heads are small. The views are larger than those of other methods, for 7 x 7 cells. The
transform has two layers, as BYOL's predictor: without its BatchNorm, SGD from the full
rate on makes all projected cells alike within some forty steps. Crops may show a
tenth of an image, the paper's 0.08 of it: where two views show nearly the same, a place
in one tells that in the other, and padding tells the network the place.
"""

_base_ = ["../byol/byol_r18_demo.py", "../_base_/models/pixpro.py"]

image_size = 112
crop_scale = (0.1, 1.0)
transform_layers = 2

model = dict(
    _delete_=True,
    type="PixPro",
    pixel=_base_.pixel,
    momentum=_base_.byol["momentum"],
    neck=dict(
        type="ConvProjector",
        in_channels=_base_.backbone_channels,
        hid_channels=_base_.hid_channels,
        out_channels=_base_.out_channels,
    ),
    backbone=_base_.model["backbone"],
    data_preprocessor=_base_.model["data_preprocessor"],
)
