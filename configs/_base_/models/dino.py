"""DINO's head, prototypes and teacher, of the sizes for ImageNet.

The teacher is what kNN, transfer and export take: `encoder="key"`.
"""

hid_channels = 2048
out_channels = 256  # the bottleneck before the prototypes
head_norm = False  # BatchNorm in the head
num_prototypes = 65536
momentum = 0.996  # share of the teacher that each step keeps, at first; at the end all
# Temperature of the teacher: it rises until this share of the training, then stays.
sharp_start = 0.04
sharp_end = 0.04  # the boosted recipe: 0.07
sharp_until = 0.3
frozen_epochs = 1  # in which the prototypes rest
max_norm = 3.0  # of the gradient of each parameter by itself

head = dict(  # and `in_channels`, those of the backbone
    type="GELUNeck",
    hid_channels=hid_channels,
    out_channels=out_channels,
    norm=head_norm,
)
dino = dict(
    type="DINO",
    num_prototypes=num_prototypes,
    target_temperature=dict(
        kind="linear",
        start=sharp_start,
        end=sharp_end,
        until=sharp_until,
        unit="training",
    ),
    momentum=dict(kind="cosine", start=momentum, end=1.0),
    frozen_epochs=frozen_epochs,
)
clip_each = dict(type="ClipEachHook", max_norm=max_norm)
of_teacher = dict(encoder="key")
spared = dict(flat_decay_mult=0)  # biases and norms do not decay
