"""UperNet on a backbone without dilation; with a ResNet as in the log of RegionCL.

That is mmseg's upernet_r50 but for the stem.
"""

_base_ = "encoder_decoder.py"

head_channels = 512

undilated = (
    dict(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1)) if _base_.net.is_resnet else {}
)
model = dict(
    backbone=undilated,
    decode_head=dict(
        type="UPerHead",
        in_channels=_base_.net.stages,
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=head_channels,
    ),
    auxiliary_head=dict(channels=head_channels // 2),
)
