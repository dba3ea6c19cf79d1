"""SCFS's heads at three stages, beside DINO, of the sizes for a ResNet-50."""

stage_channels = 256  # that a stage's head returns
mid_channels = 256  # of its bottleneck
stage_hidden = 2048  # of its MLP
stages_weight = 1.0  # 0: DINO

scfs = dict(
    type="SCFS",
    search=dict(
        out_channels=stage_channels,
        mid_channels=mid_channels,
        hid_channels=stage_hidden,
        weight=stages_weight,
    ),
)
