"""Barlow Twins on the demo scenes: minutes on two CPU cores."""

_base_ = "../../../configs/simclr/simclr_r18_demo.py"
custom_imports = dict(imports=["projects.barlow_twins.barlow_twins"])

off_diagonal = 0.0051  # lambda
width = 512  # of the projector, and D: more features than images in a batch

model = dict(
    _delete_=True,
    type="BarlowTwins",
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=dict(
        type="NonLinearNeck",
        in_channels=256,
        hid_channels=width,
        out_channels=width,
        num_layers=3,
        norm_cfg=dict(type="BN1d"),
        with_last_bn=False,
    ),
    off_diagonal=off_diagonal,
)
