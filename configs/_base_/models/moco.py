"""MoCo: a queue of keys by a slow copy of the encoder, and MoCo v1's linear neck."""

tau_ins = 0.1
queue_len = 4096
momentum = 0.99  # share of the key encoder that each step keeps

moco = dict(
    type="MoCo",
    head=dict(type="QueueSoftmax", temperature=tau_ins),
    queue_len=queue_len,
    momentum=momentum,
)
linear_neck = dict(  # and `in_channels`, those of the backbone
    type="LinearNeck", out_channels=128, gap_dim=2, norm_cfg=None
)
