"""UperNet on a ResNet without dilation, as in the log of RegionCL.

That is mmseg's upernet_r50 but for the stem.
"""

_base_ = "encoder_decoder.py"

head_channels = 512

model = dict(
    backbone=dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)),
    decode_head=dict(
        type="UPerHead",
        in_channels=[_base_.backbone_channels // share for share in (8, 4, 2, 1)],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=head_channels,
    ),
    auxiliary_head=dict(channels=head_channels // 2),
)
