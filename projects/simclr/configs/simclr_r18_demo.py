"""SimCLR on the demo scenes: minutes on two CPU cores."""

_base_ = "../../../configs/mocov2/mocov2_r18_demo.py"
custom_imports = dict(imports=["projects.simclr.simclr"])

temperature = 0.2
sync_bn = "torch"  # statistics of all GPUs

model = dict(
    _delete_=True,
    type="SimCLR",
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=dict(type="MoCoV2Neck", in_channels=256, hid_channels=256, out_channels=128),
    head=dict(type="NTXentHead", temperature=temperature),
)
