"""SimSiam's projector, and its predictor, whose learning rate stays."""

embed_channels = 2048  # of projector and embedding
predictor_channels = 512  # of the predictor's hidden layer
projector_layers = 2
sync_bn = "torch"  # statistics of all GPUs

projector = dict(  # and `in_channels`, those of the backbone
    type="NonLinearNeck",
    hid_channels=embed_channels,
    out_channels=embed_channels,
    num_layers=projector_layers,
    norm_cfg=dict(type="BN1d"),
    with_last_bn_affine=False,
)
simsiam = dict(
    type="SimSiam",
    predictor=dict(
        type="NonLinearNeck",
        in_channels=embed_channels,
        hid_channels=predictor_channels,
        out_channels=embed_channels,
        norm_cfg=dict(type="BN1d"),
        with_avg_pool=False,
        with_last_bn=False,
        with_last_bias=True,
    ),
)
fixed_rate = dict(custom_keys={"predictor": dict(fix_lr=True)})
custom_hooks = [dict(type="FixedRateHook")]
