"""The pretrained backbone for detectors with FPN; SyncBN in both."""

_base_ = "../pretrained.py"

fpn_channels = 256

preprocessor = dict(
    type="DetDataPreprocessor", **_base_.pixels, bgr_to_rgb=True, pad_mask=True
)
with_fpn = dict(
    data_preprocessor=dict(**preprocessor, pad_size_divisor=32),
    backbone=_base_.four_maps,
)
fpn = dict(
    type="FPN",
    in_channels=_base_.net.stages,
    out_channels=fpn_channels,
    norm_cfg=_base_.norm_cfg,
    num_outs=5,
    **(
        dict(init_cfg=dict(_base_.pretrained, type="mmssl_ext.PretrainedNeck"))
        if _base_.checkpoint and _base_.pretrained_neck
        else {}
    ),
)
