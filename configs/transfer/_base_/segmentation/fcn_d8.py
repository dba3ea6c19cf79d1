"""FCN on a dilated ResNet of output stride 8: mmseg's fcn_r50-d8 but for the stem.

Other backbones keep their strides.
"""

_base_ = "encoder_decoder.py"

dilated = (
    dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)) if _base_.net.is_resnet else {}
)
model = dict(
    backbone=dilated,
    decode_head=dict(
        type="FCNHead",
        in_channels=_base_.backbone_channels,
        in_index=3,
        channels=_base_.backbone_channels // 4,
        num_convs=2,
        concat_input=True,
    ),
    auxiliary_head=dict(channels=_base_.backbone_channels // 8),
)
