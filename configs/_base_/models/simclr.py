"""SimCLR: its projector, and statistics over all GPUs."""

temperature = 0.2
sync_bn = "torch"  # statistics of one GPU tell which views belong together

simclr = dict(type="SimCLR", temperature=temperature)
projector = dict(  # and `in_channels` and `hid_channels`, those of the backbone
    type="NonLinearNeck", out_channels=128, num_layers=2, norm_cfg=dict(type="BN1d")
)
