"""The pretrained ResNet for detectors, as it is or with FPN; SyncBN in both."""

_base_ = "../pretrained.py"

fpn_channels = 256

preprocessor = dict(
    type="DetDataPreprocessor", **_base_.pixels, bgr_to_rgb=True, pad_mask=True
)
backbone = dict(**_base_.resnet, norm_cfg=_base_.norm_cfg, init_cfg=_base_.pretrained)
with_fpn = dict(
    data_preprocessor=dict(**preprocessor, pad_size_divisor=32),
    backbone=dict(**backbone, out_indices=(0, 1, 2, 3)),
)
fpn = dict(
    type="FPN",
    in_channels=[_base_.backbone_channels // share for share in (8, 4, 2, 1)],
    out_channels=fpn_channels,
    norm_cfg=_base_.norm_cfg,
    num_outs=5,
)
