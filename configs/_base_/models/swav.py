"""SwAV's projector and prototypes, and the sizes for ImageNet."""

hid_channels = 2048
out_channels = 128
num_prototypes = 3000
temperature = 0.1
epsilon = 0.05  # the smaller, the harder the codes
queue_len = 0  # embeddings of earlier steps that are balanced, too
queue_start = 15  # epoch from which they are
frozen_epochs = 1  # without training of the prototypes, at first
sync_bn = "torch"  # statistics of all GPUs

projector = dict(  # and `in_channels`, those of the backbone
    type="NonLinearNeck",
    hid_channels=hid_channels,
    out_channels=out_channels,
    num_layers=2,
    norm_cfg=dict(type="BN1d"),
    with_bias=True,
    with_last_bn=False,
    with_last_bias=True,
)
swav = dict(
    type="SwAV",
    num_prototypes=num_prototypes,
    temperature=temperature,
    epsilon=epsilon,
    queue_len=queue_len,
    queue_start=queue_start,
    frozen_epochs=frozen_epochs,
)
