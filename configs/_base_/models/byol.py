"""BYOL's projector, predictor and target network, of the sizes for ImageNet."""

hid_channels = 4096
out_channels = 256
momentum = 0.99  # share of the target that each step keeps, at first; at the end all
sync_bn = "torch"  # statistics of all GPUs

projector = dict(  # and `in_channels`, those of the backbone
    type="NonLinearNeck",
    hid_channels=hid_channels,
    out_channels=out_channels,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
)
byol = dict(
    type="BYOL",
    predictor=dict(**projector, in_channels=out_channels, with_avg_pool=False),
    momentum=dict(kind="cosine", start=momentum, end=1.0),
)
