"""MIRA's projector, prototypes and target network, and the sizes for ImageNet."""

hid_channels = 2048
out_channels = 256
num_prototypes = 3000
temperature = 0.1
target_temperature = 0.225
beta = (0.75, 2 / 3)  # weight of the mutual information, at first and at the end
momentum = 0.99  # share of the target that each step keeps, at first; at the end all
frozen_epochs = 1  # without training of the prototypes, at first
sync_bn = "torch"  # statistics of all GPUs

projector = dict(  # and `in_channels`, those of the backbone
    type="NonLinearNeck",
    hid_channels=hid_channels,
    out_channels=out_channels,
    num_layers=3,
    norm_cfg=dict(type="BN1d"),
    with_last_bn=False,
    with_last_bias=True,
)
mira = dict(
    type="MIRA",
    num_prototypes=num_prototypes,
    temperature=temperature,
    target_temperature=target_temperature,
    beta=dict(kind="cosine", start=beta[0], end=beta[1]),
    momentum=dict(kind="cosine", start=momentum, end=1.0),
    frozen_epochs=frozen_epochs,
)
